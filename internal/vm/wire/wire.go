// SPDX-License-Identifier: Apache-2.0

// Package wire is what a test VM and its host say to each other.
package wire

// A Plan is what a VM is to do. It lies in the VM's file system as /vm.json.
type Plan struct {
	// Modules are paths of kernel modules, in the order in which they are loaded.
	Modules []string
	// Env is set, as NAME=VALUE, for all jobs.
	Env  []string
	Jobs []Job
}

// A Job is a program that is run.
type Job struct {
	Name, Dir string
	Args      []string
}

// Prefix begins the lines of the VM itself.
const Prefix = "##vm "

// A Line is one thing that a VM says, in JSON: one of the fields is set, with End also Exit.
type Line struct {
	// Boot is the kernel's release.
	Boot string `json:",omitempty"`
	// Begin and End are the name of a job.
	Begin string `json:",omitempty"`
	End   string `json:",omitempty"`
	// Exit is the job's exit code. Error says more if it is not 0.
	Exit  int    `json:",omitempty"`
	Error string `json:",omitempty"`
	// Done says that all jobs were run.
	Done bool `json:",omitempty"`
}
