// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package live

import (
	"context"
	"errors"
)

// Open says that it can't: only Linux has these tracepoints.
func Open(context.Context, Options) (Source, error) {
	return nil, errors.New("live tracing needs Linux")
}

// Limits has no meaning here.
func Limits() []Limit { return nil }

// Rights has no meaning here.
func Rights() ([]Right, error) { return nil, nil }
