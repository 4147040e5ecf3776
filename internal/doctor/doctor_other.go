// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package doctor

import (
	"context"
	"runtime"
)

// Run says that live tracing needs Linux.
func Run(context.Context, Options) []Check {
	return []Check{{Name: "kernel", Of: runtime.GOOS, Status: Failed, Detail: "live tracing needs Linux"}}
}
