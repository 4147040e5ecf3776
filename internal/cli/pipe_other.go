// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cli

import "io"

// checkOpen knows nothing here: the next write will tell.
func checkOpen(io.Writer) error { return nil }
