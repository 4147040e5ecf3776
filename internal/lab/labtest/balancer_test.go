// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// A load balancer that uses its port again meets the server's TIME_WAIT, unless it has more ports, or leaves in
// timestamps that grow from one connection to the next.
func TestPortReuse(t *testing.T) {
	for _, tt := range []struct {
		name     string
		options  labtest.BalancerOptions
		want     labtest.Reuse
		settings []string
	}{
		{"recovered", labtest.BalancerOptions{}, labtest.Recovered, nil},
		{"stuck", labtest.BalancerOptions{}, labtest.Stuck, nil},
		{"more ports", labtest.BalancerOptions{Ports: 2}, labtest.Harmless, nil},
		{"timestamps", labtest.BalancerOptions{KeepTimestamps: true}, labtest.Harmless, []string{"net.ipv4.tcp_timestamps", "2"}},
	} {
		for _, f := range families {
			t.Run(fmt.Sprintf("%s/%v", tt.name, f), func(t *testing.T) {
				t.Parallel()
				b := labtest.NewBalancer(t, tt.options)
				labtest.PlayAndCheck(t, b.Place(f), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
					return b.PortReuse(ctx, p, tt.want, tt.settings...)
				})
			})
		}
	}
}
