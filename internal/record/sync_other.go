// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package record

import "os"

// datasync has what was written to f on disk.
func datasync(f *os.File) error { return f.Sync() }
