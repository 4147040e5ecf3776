// SPDX-License-Identifier: Apache-2.0

// Package demo makes the trouble that "tcptrace demo" traces: real sockets,
// real loss, in a network namespace that is gone afterwards.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// Demo is a throwaway namespace, ready for trouble.
type Demo struct{ ns *lab.Namespace }

// New makes the namespace. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func New(ctx context.Context) (*Demo, error) {
	ns, err := lab.NewNamespace(ctx)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("missing %s: run it as root (sudo): %w", missing(), err)
	}
	if err != nil {
		return nil, err
	}
	return &Demo{ns}, nil
}

// missing names what New needs and this process lacks.
func missing() string {
	own := cap.GetProc()
	var list []string
	for name, v := range map[string]cap.Value{"CAP_SYS_ADMIN": cap.SYS_ADMIN, "CAP_NET_ADMIN": cap.NET_ADMIN} {
		if on, err := own.GetFlag(cap.Effective, v); err != nil || !on {
			list = append(list, name)
		}
	}
	if list == nil {
		return "a right that is no capability"
	}
	slices.Sort(list)
	return strings.Join(list, " and ")
}

// NetNS is the inode number of the namespace.
func (d *Demo) NetNS() uint32 { return d.ns.Inum() }

// Rights are the capabilities that Run needs: for settings of the namespace.
func (*Demo) Rights() []string { return []string{"CAP_NET_ADMIN"} }

// Run makes one trouble after the other. It calls say before each, with a line
// about what is done, and settle after each, which returns when its events are
// on screen.
func (d *Demo) Run(ctx context.Context, say func(string), settle func(context.Context) error) error {
	place, err := d.ns.Loopback(lab.V4)
	if err != nil {
		return err
	}
	for _, s := range lab.Scenarios() {
		if !s.Demo {
			continue
		}
		say(s.Title)
		if _, err := s.Run(ctx, place); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if err := settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the namespace.
func (d *Demo) Close() error { return d.ns.Close() }
