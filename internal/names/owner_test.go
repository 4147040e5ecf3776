// SPDX-License-Identifier: Apache-2.0

package names

import (
	"regexp"
	"strings"
	"testing"
)

const (
	id1   = "7f3a9c1e5b2d4860a1c3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b"
	id2   = "0011223344556677889900aabbccddeeff00112233445566778899aabbccddee"
	uid1  = "3b1f6c2e-9d4a-4e7b-8c5f-0a1b2c3d4e5f"
	uid1_ = "3b1f6c2e_9d4a_4e7b_8c5f_0a1b2c3d4e5f"
	uid2  = "a0b1c2d3-e4f5-4607-9809-0a0b0c0d0e0f"
	uid2_ = "a0b1c2d3_e4f5_4607_9809_0a0b0c0d0e0f"
	hash  = "1864dd0546310be9937c37cf88024cb8" // of a static pod
)

func TestOwner(t *testing.T) {
	for _, tt := range []struct{ path, unit, container, pod string }{
		// Nobody's.
		{"", "", "", ""},
		{"/", "", "", ""},
		{"//", "", "", ""},
		{"/user.slice", "", "", ""},
		{"/system.slice/", "", "", ""},
		{"/mine", "", "", ""},
		{"/mine/nginx.service", "", "", ""}, // not where systemd puts units
		{"/a.slice/b/c.service", "", "", ""},

		// systemd's units.
		{"/init.scope", "init.scope", "", ""},
		{"/nginx.service", "nginx.service", "", ""},
		{"/system.slice/nginx.service", "nginx.service", "", ""},
		{"/system.slice/nginx.service/", "nginx.service", "", ""},
		{"system.slice//nginx.service", "nginx.service", "", ""},
		{"/system.slice/nginx.service/worker/1", "nginx.service", "", ""},
		{"/system.slice/nginx.service/php.service", "nginx.service", "", ""},
		{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "", ""},
		{"/system.slice/system-db.slice/db@a@b.service", "db@a@b.service", "", ""},
		{"/system.slice/ssh.socket", "ssh.socket", "", ""},
		{`/system.slice/srv-my\x2ddata.mount`, `srv-my\x2ddata.mount`, "", ""},
		{"/system.slice/_cpu.service", "cpu.service", "", ""},
		{"/_memory.slice/a.service", "a.service", "", ""},
		{"/user.slice/user-1000.slice/session-2.scope", "session-2.scope", "", ""},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/browser.service", "user@1000.service", "", ""},
		{"/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt", `machine-qemu\x2d1\x2dvm.scope`, "", ""},
		{"/system.slice/" + strings.Repeat("a", 247) + ".service", strings.Repeat("a", 247) + ".service", "", ""},

		// Not units.
		{"/system.slice/" + strings.Repeat("a", 248) + ".service", "", "", ""},
		{"/system.slice/getty@.service", "", "", ""}, // a template
		{"/system.slice/@tty1.service", "", "", ""},
		{"/system.slice/.service", "", "", ""},
		{"/system.slice/_.service", "", "", ""},
		{"/system.slice/service", "", "", ""},
		{"/system.slice/nginx.services", "", "", ""},
		{"/system.slice/nginx.", "", "", ""},
		{"/system.slice/my nginx.service", "", "", ""},
		{"/system.slice/nginx\x1b.service", "", "", ""},
		{"/system.slice/caf\u00e9.service", "", "", ""},
		{"/system.slice/a:b.service", "a:b.service", "", ""},
		{"/system.slice/x@y.slice", "", "", ""},
		{"/system.slice/x@y.slice/a.service", "", "", ""},

		// docker.
		{"/docker/" + id1, "", id1, ""},
		{"/docker/" + id1 + "/init.scope", "", id1, ""},
		{"/system.slice/docker-" + id1 + ".scope", "docker-" + id1 + ".scope", id1, ""},
		{"/system.slice/docker-" + id1 + ".scope/init.scope", "docker-" + id1 + ".scope", id1, ""},
		{"/system.slice/docker-" + id1 + ".scope/system.slice/nginx.service", "docker-" + id1 + ".scope", id1, ""},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id1 + ".scope", "user@1000.service", id1, ""},
		{"/" + id1, "", id1, ""},
		{"/ecs/0123456789abcdef0123456789abcdef/" + id1, "", id1, ""},
		{"/system.slice/docker.service", "docker.service", "", ""},
		{"/docker/buildkit/t4967jvf8rbufklrhkicskyes", "", "", ""},

		// containerd.
		{"/default/" + id1, "", id1, ""},
		{"/k8s.io/" + id1, "", id1, ""},
		{"/system.slice/nerdctl-" + id1 + ".scope", "nerdctl-" + id1 + ".scope", id1, ""},
		{"/system.slice/cri-containerd-" + id1 + ".scope", "cri-containerd-" + id1 + ".scope", id1, ""},
		{"/system.slice/containerd.service", "containerd.service", "", ""},

		// podman.
		{"/machine.slice/libpod-" + id1 + ".scope", "libpod-" + id1 + ".scope", id1, ""},
		{"/machine.slice/libpod-" + id1 + ".scope/container", "libpod-" + id1 + ".scope", id1, ""},
		{"/machine.slice/libpod-conmon-" + id1 + ".scope", "libpod-conmon-" + id1 + ".scope", "", ""},
		{"/machine.slice/machine-libpod_pod_" + id2 + ".slice/libpod-" + id1 + ".scope/container", "libpod-" + id1 + ".scope", id1, ""},
		{"/machine.slice/machine-libpod_pod_" + id2 + ".slice", "", "", ""},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_" + id2 + ".slice/libpod-" + id1 + ".scope/container",
			"user@1000.service", id1, ""},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope", "user@1000.service", id1, ""},
		{"/system.slice/web.service/libpod-payload-" + id1, "web.service", id1, ""},
		{"/system.slice/web.service/runtime", "web.service", "", ""},
		{"/libpod_parent/libpod-" + id1, "", id1, ""},
		{"/libpod_parent/libpod-" + id1 + "/ctr", "", id1, ""},
		{"/libpod_parent/" + id2 + "/libpod-" + id1, "", id1, ""},
		{"/libpod_parent/" + id2, "", "", ""}, // a pod of podman's
		{"/libpod_parent/conmon", "", "", ""},
		{"/libpod-parent/libpod-conmon-" + id1 + "/" + id1, "", id1, ""},

		// Kubernetes, by the systemd driver.
		{"/kubepods.slice/kubepods-pod" + uid1_ + ".slice", "", "", uid1},
		{"/kubepods.slice/kubepods-pod" + uid1_ + ".slice/cri-containerd-" + id1 + ".scope", "cri-containerd-" + id1 + ".scope", id1, uid1},
		{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uid1_ + ".slice/cri-containerd-" + id1 + ".scope",
			"cri-containerd-" + id1 + ".scope", id1, uid1},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid1_ + ".slice/docker-" + id1 + ".scope",
			"docker-" + id1 + ".scope", id1, uid1},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid1_ + ".slice/crio-" + id1 + ".scope/container",
			"crio-" + id1 + ".scope", id1, uid1},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid1_ + ".slice/crio-" + id1, "", id1, uid1},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid1_ + ".slice/crio-conmon-" + id1 + ".scope",
			"crio-conmon-" + id1 + ".scope", "", uid1},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + hash + ".slice/cri-containerd-" + id1 + ".scope",
			"cri-containerd-" + id1 + ".scope", id1, hash},
		{"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uid1_ +
			".slice/cri-containerd-" + id1 + ".scope", "cri-containerd-" + id1 + ".scope", id1, uid1},
		{"/kubepods.slice/kubepods-burstable.slice", "", "", ""},

		// Kubernetes, by the cgroupfs driver.
		{"/kubepods/pod" + uid1 + "/" + id1, "", id1, uid1},
		{"/kubepods/besteffort/pod" + uid1 + "/" + id1, "", id1, uid1},
		{"/kubepods/burstable/pod" + uid1, "", "", uid1},
		{"/kubepods/burstable/pod" + hash + "/" + id1, "", id1, hash},
		{"/kubepods/burstable/pod" + uid1 + "/crio-" + id1, "", id1, uid1},
		{"/kubepods/burstable/pod" + uid1 + "/crio-conmon-" + id1, "", "", uid1},
		{"/node/kubepods/burstable/pod" + uid1 + "/" + id1, "", id1, uid1},

		// containerd by cgroupfs below a kubelet with systemd.
		{"/system.slice/containerd.service/kubepods-burstable-pod" + uid1_ + ".slice:cri-containerd:" + id1,
			"containerd.service", id1, uid1},
		{"/kubepods-pod" + uid1_ + ".slice:cri-containerd:" + id1, "", id1, uid1},

		// Nested: the innermost counts.
		{"/system.slice/docker-" + id2 + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uid1_ +
			".slice/cri-containerd-" + id1 + ".scope", "docker-" + id2 + ".scope", id1, uid1},
		{"/docker/" + id2 + "/kubepods/burstable/pod" + uid1 + "/" + id1, "", id1, uid1},
		{"/docker/" + id2 + "/docker/" + id1, "", id1, ""},
		{"/kubepods/burstable/pod" + uid1 + "/" + id2 + "/docker/" + id1, "", id1, uid1},
		{"/kubepods/pod" + uid2 + "/" + id2 + "/kubepods.slice/kubepods-pod" + uid1_ + ".slice/cri-containerd-" + id1 + ".scope", "", id1, uid1},
		{"/docker/" + id1 + strings.Repeat("/a", 2000), "", id1, ""},

		// What only looks like it.
		{"/docker/" + id1[1:], "", "", ""},
		{"/docker/" + id1 + "0", "", "", ""},
		{"/docker/" + strings.ToUpper(id1), "", "", ""},
		{"/docker/" + id1[:63] + "g", "", "", ""},
		{"/docker/" + id1[:12], "", "", ""},
		{"/docker" + id1, "", "", ""},
		{"/-" + id1, "", "", ""},
		{"/:" + id1, "", "", ""},
		{"/.scope", "", "", ""},
		{"/system.slice/docker_" + id1 + ".scope", "docker_" + id1 + ".scope", "", ""},
		{"/system.slice/docker:" + id1 + ".scope", "docker:" + id1 + ".scope", "", ""},
		{"/system.slice/session-" + id1 + ".scope", "session-" + id1 + ".scope", "", ""},
		{"/system.slice/run-" + id1 + ".service", "run-" + id1 + ".service", "", ""},
		{"/system.slice/docker-" + id1 + ".service", "docker-" + id1 + ".service", "", ""},
		{"/system.slice/docker-" + id1 + ".slice/x", "", "", ""},
		{"/system.slice/mydocker-" + id1 + ".scope", "mydocker-" + id1 + ".scope", "", ""},
		{"/x.slice:mine:" + id1, "", "", ""},
		{"/x.slice:docker-" + id1, "", "", ""},
		{"/besteffort/pod" + uid1, "", "", ""},
		{"/kubepods/mine/pod" + uid1, "", "", ""},
		{"/kubepods/a/b/pod" + uid1, "", "", ""},
		{"/pod" + uid1, "", "", ""},
		{"/kubepods/pod" + uid1_, "", "", ""},
		{"/kubepods/podcast", "", "", ""},
		{"/kubepods/pod" + uid1[1:] + "0", "", "", ""},
		{"/kubepods/pod" + strings.ToUpper(uid1), "", "", ""},
		{"/kubepods/pod" + hash + "0", "", "", ""},
		{"/kubepods.slice/kubepods-pod" + uid1 + ".slice", "", "", ""},
		{"/kubepods.slice/mine-pod" + uid1_ + ".slice", "", "", ""},
		{"/kubepods.slice/kubepods-mine-pod" + uid1_ + ".slice", "", "", ""},
		{"/kubepods.slice/notkubepods-pod" + uid1_ + ".slice", "", "", ""},
		{"/kubepods.slice/kubepods-pod" + uid1_ + ".scope", "kubepods-pod" + uid1_ + ".scope", "", ""},
		{"/kubepods.slice/kubepods-pod" + uid1_, "", "", ""},
		{"/kubepods.slice/kubepods-pod" + uid1_ + ".slice.slice", "", "", ""},
	} {
		unit, container, pod := Owner(tt.path)
		if unit != tt.unit || container != tt.container || pod != tt.pod {
			t.Errorf("%.300s:\n got %q, %q, %q\nwant %q, %q, %q", tt.path, unit, container, pod, tt.unit, tt.container, tt.pod)
		}
	}
}

// TestOwnerAllocations: the names are parts of the path.
func TestOwnerAllocations(t *testing.T) {
	for _, path := range []string{
		"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id1 + ".scope",
		"/kubepods/burstable/pod" + uid2 + "/" + id1,
	} {
		if n := testing.AllocsPerRun(100, func() { Owner(path) }); n != 0 {
			t.Errorf("%v allocations for %s", n, path)
		}
	}
}

var (
	validUnit = regexp.MustCompile(`^[a-zA-Z0-9:_.\\-]+(@[a-zA-Z0-9:_.\\@-]+)?\.(service|socket|target|device|mount|automount|swap|timer|path|scope)$`)
	validID   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	validUID  = regexp.MustCompile(`^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

// FuzzOwner: a name is well-formed and stands in the path; what is below
// a cgroup doesn't change its unit.
func FuzzOwner(f *testing.F) {
	for _, s := range []string{
		"/system.slice/docker-" + id1 + ".scope/init.scope",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid2_ + ".slice/crio-conmon-" + id1 + ".scope",
		"/kubepods/pod" + uid1 + "/" + id1, "/libpod_parent/" + id2, "_a.slice/b@.service//", "/x.slice:crio:" + id1, "\x00/\xff.scope",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		unit, container, pod := Owner(path)
		if unit != "" && (!validUnit.MatchString(unit) || !strings.Contains(path, unit)) {
			t.Errorf("unit %q", unit)
		}
		if container != "" && (!validID.MatchString(container) || !strings.Contains(path, container)) {
			t.Errorf("container %q", container)
		}
		if pod != "" && (!validUID.MatchString(pod) ||
			!strings.Contains(path, "pod"+pod) && !strings.Contains(path, "pod"+strings.ReplaceAll(pod, "-", "_"))) {
			t.Errorf("pod %q", pod)
		}
		if unit == "" {
			return
		}
		if below, _, _ := Owner(path + "/x.service"); below != unit {
			t.Errorf("unit %q, and %q below it", unit, below)
		}
	})
}

func BenchmarkOwner(b *testing.B) {
	path := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid1_ + ".slice/cri-containerd-" + id1 + ".scope"
	b.ReportAllocs()
	for b.Loop() {
		Owner(path)
	}
}
