// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"
)

// list declares a flag that holds a list, to which each use of it appends.
func list[T any](fs *pflag.FlagSet, dst *[]T, parse func(string) ([]T, error), name, kind, usage string) {
	fs.Var(&listValue[T]{dst: dst, parse: parse, kind: kind}, name, usage)
}

type listValue[T any] struct {
	dst   *[]T
	parse func(string) ([]T, error)
	kind  string
	texts []string
}

func (v *listValue[T]) Set(text string) error {
	l, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.dst = append(*v.dst, l...)
	v.texts = append(v.texts, text)
	return nil
}

func (v *listValue[T]) Type() string   { return v.kind }
func (v *listValue[T]) String() string { return strings.Join(v.texts, ",") }

// choiceValue is one of a few words.
type choiceValue struct {
	dst   *string
	kind  string
	words []string
}

func (v *choiceValue) Set(text string) error {
	if !slices.Contains(v.words, text) {
		return fmt.Errorf("it is one of %s", strings.Join(v.words, ", "))
	}
	*v.dst = text
	return nil
}

func (v *choiceValue) Type() string   { return v.kind }
func (v *choiceValue) String() string { return *v.dst }

type durationValue time.Duration

func (v *durationValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, nerr := strconv.ParseFloat(text, 64); nerr == nil {
			return fmt.Errorf("it needs a unit, as in %ss or %sm", text, text)
		}
		return errors.New("it is not a time such as 30s, 5m or 1h30m")
	}
	if d <= 0 {
		return errors.New("it must be above 0")
	}
	*v = durationValue(d)
	return nil
}

func (v *durationValue) Type() string { return "TIME" }

func (v *durationValue) String() string {
	if *v == 0 {
		return ""
	}
	return shortDuration(time.Duration(*v))
}

type countValue uint64

func (v *countValue) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return errors.New("it is a number from 1 on")
	}
	*v = countValue(n)
	return nil
}

func (v *countValue) Type() string   { return "N" }
func (v *countValue) String() string { return strconv.FormatUint(uint64(*v), 10) }

// sizeValue is a number of bytes, a power of two.
type sizeValue int

const minSize, maxSize = 4 << 10, 1 << 30

func (v *sizeValue) Set(text string) error {
	const wrong = "it is not a size such as 64MiB; the units are KiB, MiB, GiB, or K, M, G for short"
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	var shift int
	switch strings.ToLower(strings.TrimSpace(text[len(digits):])) {
	case "":
	case "k", "kib":
		shift = 10
	case "m", "mib":
		shift = 20
	case "g", "gib":
		shift = 30
	default:
		return errors.New(wrong)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return errors.New(wrong)
	}
	if err != nil || n > maxSize>>shift || n<<shift < minSize {
		return errors.New("it goes from 4KiB to 1GiB")
	}
	*v = 1 << bits.Len64(n<<shift-1)
	return nil
}

func (v *sizeValue) Type() string { return "SIZE" }

func (v *sizeValue) String() string {
	n := int(*v)
	for _, unit := range []string{"", "KiB", "MiB"} {
		if n < 1024 {
			return strconv.Itoa(n) + unit
		}
		n /= 1024
	}
	return strconv.Itoa(n) + "GiB"
}

// quoted quotes text where a shell would need it, or where it holds what a
// terminal shouldn't get.
func quoted(text string) string {
	switch {
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }):
		return strconv.Quote(text)
	case text == "" || strings.ContainsAny(text, " \"'\\$&|;<>()*?[]{}!#`"):
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}
