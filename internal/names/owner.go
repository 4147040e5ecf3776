// SPDX-License-Identifier: Apache-2.0

package names

import "strings"

// Owner finds what the path of a cgroup says of who is in it: the systemd
// unit, the id of the container, and the uid of the Kubernetes pod; "" for
// what it doesn't say.
//
// The unit is the one that systemd itself would find: of a user's services it
// is user@UID.service, of a container in a unit the unit. Containers nest, and
// so do pods: the innermost counts. Whoever may make cgroups chooses their
// names, so these are names and not proofs.
func Owner(path string) (unit, container, pod string) {
	slices := true           // nothing but slices so far
	var parent, above string // the component before, and the one before that
	for path != "" {
		var c string
		c, path, _ = strings.Cut(path, "/")
		if c == "" {
			continue
		}
		if slices && !isSlice(c) {
			slices = false
			unit = unitOf(c)
		}
		if uid := podOf(c, parent, above); uid != "" {
			pod = uid
		}
		if id, ok := containerOf(c, parent); ok {
			container = id
		}
		above, parent = parent, c
	}
	return unit, container, pod
}

// isSlice and unitOf follow systemd's cg_path_get_unit(): a name that could be
// one of the kernel's files has a "_" before it.

func isSlice(c string) bool {
	c = strings.TrimPrefix(c, "_")
	return strings.HasSuffix(c, ".slice") && isUnit(c) && !strings.Contains(c, "@")
}

// unitOf returns the unit's name, "" if c is not the cgroup of one.
func unitOf(c string) string {
	c = strings.TrimPrefix(c, "_")
	if !isUnit(c) || strings.HasSuffix(c, ".slice") {
		return ""
	}
	return c
}

// isUnit follows systemd's unit_name_is_valid(), for what is not a template.
func isUnit(c string) bool {
	const maxName = 255
	dot := strings.LastIndexByte(c, '.')
	if dot < 1 || len(c) > maxName {
		return false
	}
	switch c[dot+1:] {
	case "service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope":
	default:
		return false
	}
	at := -1
	for i := range dot {
		switch b := c[i]; {
		case b == '@':
			if at < 0 {
				at = i
			}
		case '0' <= b && b <= '9', 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z':
		case b == ':' || b == '-' || b == '_' || b == '.' || b == '\\':
		default:
			return false
		}
	}
	return at != 0 && at != dot-1
}

// containerOf returns the container's id that c, below parent, is the cgroup
// of. ok with "" is a cgroup of the runtime's own process for a container.
//
//	ID                             docker, containerd, Kubernetes' cgroupfs driver
//	docker-ID.scope                and others, by the systemd driver
//	libpod-ID, crio-ID             podman and CRI-O by the cgroupfs driver
//	libpod-payload-ID              podman, --cgroups=split
//	...-podUID.slice:cri-containerd:ID   containerd that doesn't know of the systemd driver
func containerOf(c, parent string) (id string, ok bool) {
	const idLen = 64
	c = strings.TrimSuffix(c, ".scope")
	if len(c) < idLen {
		return "", false
	}
	runtime, id := c[:len(c)-idLen], c[len(c)-idLen:]
	if !isHex(id) {
		return "", false
	}
	if runtime == "" {
		return id, parent != "libpod_parent" && parent != "libpod-parent" // where podman has its own pods
	}
	if _, named, ok := strings.Cut(runtime, ".slice:"); ok {
		runtime, ok = strings.CutSuffix(named, ":")
		return id, ok && isRuntime(runtime)
	}
	runtime, ok = strings.CutSuffix(runtime, "-")
	if ok && strings.HasSuffix(runtime, "-conmon") {
		return "", true
	}
	return id, ok && isRuntime(runtime)
}

// isRuntime reports whether s is how a container's cgroup begins.
func isRuntime(s string) bool {
	switch s {
	case "docker", "cri-containerd", "nerdctl", "crio", "libpod", "libpod-payload":
		return true
	}
	return false
}

// podOf returns the pod's uid that c, below parent and above, is the cgroup of.
//
//	/kubepods/podUID, /kubepods/burstable/podUID          by the cgroupfs driver
//	kubepods-podUID.slice, kubepods-burstable-podUID.slice   by the systemd driver
func podOf(c, parent, above string) string {
	if uid, ok := strings.CutPrefix(c, "pod"); ok {
		if parent == "kubepods" || above == "kubepods" && isQoS(parent) {
			return podUID(uid, '-')
		}
		return ""
	}
	c, _, _ = strings.Cut(c, ":")
	c, ok := strings.CutSuffix(c, ".slice")
	i := strings.LastIndex(c, "-pod")
	if !ok || i < 0 {
		return ""
	}
	group, uid := c[:i], c[i+len("-pod"):]
	if j := strings.LastIndexByte(group, '-'); j >= 0 && isQoS(group[j+1:]) {
		group = group[:j]
	}
	if group != "kubepods" && !strings.HasSuffix(group, "-kubepods") { // kubelet may put it below another slice
		return ""
	}
	return podUID(uid, '_')
}

// isQoS reports whether s is a class of pods that has a cgroup of its own.
func isQoS(s string) bool { return s == "besteffort" || s == "burstable" || s == "guaranteed" }

// podUID returns a pod's uid: a UUID, in which sep stands for "-", or the hash
// that a static pod has. "" is none.
func podUID(s string, sep byte) string {
	switch len(s) {
	case 32:
		if isHex(s) {
			return s
		}
	case 36:
		for i := range len(s) {
			switch i {
			case 8, 13, 18, 23:
				if s[i] != sep {
					return ""
				}
			default:
				if !isHex(s[i : i+1]) {
					return ""
				}
			}
		}
		return strings.ReplaceAll(s, "_", "-")
	}
	return ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
