// SPDX-License-Identifier: Apache-2.0

// Package bench measures what tcptrace costs, beside other tools on the same
// load and in the same run: see "make bench" and docs/performance.md.
package bench
