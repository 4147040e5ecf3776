// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"math"
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
	d, err := parseDuration(text)
	if err != nil {
		if _, nerr := strconv.ParseFloat(text, 64); nerr == nil {
			return fmt.Errorf("it needs a unit, as in %ss or %sm", text, text)
		}
		return errors.New("it is not a time such as 30s, 5m, 1h30m or 7d, of at most 36500d")
	}
	if d <= 0 {
		return errors.New("it must be above 0")
	}
	*v = durationValue(d)
	return nil
}

// parseDuration takes days, too.
func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n <= 36500 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	return time.ParseDuration(text)
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
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	if n > maxSize || n < minSize {
		return errors.New("it goes from 4KiB to 1GiB")
	}
	*v = 1 << bits.Len64(n-1)
	return nil
}

// parseSize returns a number of bytes; the largest for what is larger.
func parseSize(text string) (uint64, error) {
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
		return 0, errors.New(wrong)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || n > math.MaxUint64>>shift:
		return math.MaxUint64, nil
	case err != nil:
		return 0, errors.New(wrong)
	}
	return n << shift, nil
}

func (v *sizeValue) Type() string { return "SIZE" }

func (v *sizeValue) String() string { return sizeText(int64(*v)) }

// sizeText writes a number of bytes with the largest unit that fits.
func sizeText(n int64) string {
	for _, unit := range []string{"", "KiB", "MiB"} {
		if n < 1024 {
			return strconv.FormatInt(n, 10) + unit
		}
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + "GiB"
}

// diskValue is a number of bytes on disk.
type diskValue int64

const minDisk, maxDisk = 1 << 20, 1 << 50

func (v *diskValue) Set(text string) error {
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	if n < minDisk || n > maxDisk {
		return errors.New("it goes from 1MiB to 1048576GiB")
	}
	*v = diskValue(n)
	return nil
}

func (v *diskValue) Type() string { return "SIZE" }

func (v *diskValue) String() string {
	if *v == 0 {
		return ""
	}
	return sizeText(int64(*v))
}

// momentValue is a time of day, a time, or a duration that has passed since.
type momentValue string

func (v *momentValue) Set(text string) error {
	if text == "" {
		return errors.New("it needs a value")
	}
	*v = momentValue(text)
	_, err := v.at(time.Now(), time.Time{})
	return err
}

func (v *momentValue) Type() string   { return "TIME" }
func (v *momentValue) String() string { return string(*v) }

// at is the moment, as now and its time zone make it; zero for none. A time of
// day is the last one, or else the first after since.
func (v *momentValue) at(now, since time.Time) (time.Time, error) {
	text := strings.TrimSpace(string(*v))
	if *v == "" {
		return time.Time{}, nil
	}
	if d, err := parseDuration(text); err == nil {
		if d < 0 {
			return time.Time{}, errors.New("it must not be negative: 10m is ten minutes ago")
		}
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(time.DateOnly+" "+layout, now.Format(time.DateOnly)+" "+text, now.Location()); err == nil {
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			if t.Before(since) {
				t = t.AddDate(0, 0, 1)
			}
			return t, nil
		}
	}
	return time.Time{}, errors.New(`it is not a time such as 14:00, "2026-01-31 14:00:05" or 2026-01-31T14:00:05Z, or 10m for ten minutes ago`)
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
