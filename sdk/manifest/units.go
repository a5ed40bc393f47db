package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

var sizeUnits = [...]struct {
	suffix string
	bytes  uint64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}, {"", 1}}

// ParseSize reads a number of bytes: `65536`, `64Ki`, `64Mi`, `1Gi`.
func ParseSize(s string) (uint64, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || n > (1<<62)/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("%q is no size: want a whole number of bytes, or one with Ki, Mi or Gi, e.g. 64Mi", s)
}

// FormatSize writes a number of bytes with the largest unit that divides it.
func FormatSize(n uint64) string {
	for _, u := range sizeUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatUint(n/u.bytes, 10) + u.suffix
		}
	}
	return "0"
}

// ParseCPU reads thousandths of a core: `500m`, or cores with at most three decimals: `2`, `0.5`.
func ParseCPU(s string) (uint32, error) {
	bad := fmt.Errorf("%q is no CPU share: want thousandths of a core, e.g. 500m, or cores, e.g. 2 or 0.5", s)
	if m, ok := strings.CutSuffix(s, "m"); ok {
		n, err := strconv.ParseUint(m, 10, 32)
		if err != nil {
			return 0, bad
		}
		return uint32(n), nil
	}
	whole, frac, point := strings.Cut(s, ".")
	if len(frac) > 3 || point && frac == "" {
		return 0, bad
	}
	n, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 3-len(frac)), 10, 32)
	if err != nil || whole == "" {
		return 0, bad
	}
	return uint32(n), nil
}

// FormatCPU writes thousandths of a core.
func FormatCPU(millis uint32) string {
	if millis%1000 == 0 {
		return strconv.FormatUint(uint64(millis/1000), 10)
	}
	return strconv.FormatUint(uint64(millis), 10) + "m"
}

// ParseDuration reads a duration that is not negative: `5s`, `1h30m`, `250ms`, `0`.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration: want a number with ms, s, m or h, e.g. 5s", s)
	}
	return d, nil
}

// FormatDuration writes a duration without its zero parts: `1h`, not `1h0m0s`.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
