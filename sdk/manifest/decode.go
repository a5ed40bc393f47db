package manifest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/types/known/durationpb"
)

// decoder walks the nodes of one file and collects what is wrong.
type decoder struct {
	problems []Problem
	// The node of every field that was there, by path.
	at map[string]*yaml.Node
}

// fields says how to read each field that a mapping may have.
type fields map[string]func(n *yaml.Node, path string)

func (d *decoder) add(n *yaml.Node, path, format string, args ...any) {
	p := Problem{Path: path, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	d.problems = append(d.problems, p)
}

// kind tells whether n is of the wanted kind, and complains if not.
func (d *decoder) kind(n *yaml.Node, path string, want yaml.Kind) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.add(n, path, "anchors and aliases are not read here: write the value out")
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.add(n, path, "has no value: give one, or leave the field out")
	case n.Kind != want:
		d.add(n, path, "is %s: want %s", kindName(n.Kind), kindName(want))
	default:
		return true
	}
	return false
}

func kindName(k yaml.Kind) string {
	switch k {
	case yaml.MappingNode:
		return "a mapping of fields"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// mapping reads the fields of n.
func (d *decoder) mapping(n *yaml.Node, path string, f fields) {
	if !d.kind(n, path, yaml.MappingNode) {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		p := join(path, key.Value)
		read := f[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.add(key, path, "has a field whose name is %s: want a word", kindName(key.Kind))
		case read == nil:
			d.add(key, p, "unknown field%s", suggest(key.Value, f))
		case seen[key.Value]:
			d.add(key, p, "is given twice")
		default:
			seen[key.Value] = true
			d.at[p] = value
			read(value, p)
		}
	}
}

// pairs reads a mapping with free keys.
func (d *decoder) pairs(n *yaml.Node, path string, each func(key string, kn, value *yaml.Node, path string)) {
	if !d.kind(n, path, yaml.MappingNode) {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		p := join(path, key.Value)
		if seen[key.Value] {
			d.add(key, p, "is given twice")
			continue
		}
		seen[key.Value] = true
		each(key.Value, key, n.Content[i+1], p)
	}
}

// list reads the items of n, at most limit.
func (d *decoder) list(n *yaml.Node, path string, limit int, each func(n *yaml.Node, path string)) {
	if !d.kind(n, path, yaml.SequenceNode) {
		return
	}
	if len(n.Content) > limit {
		d.add(n, path, "has %d items: at most %d", len(n.Content), limit)
		return
	}
	for i, item := range n.Content {
		each(item, path+"["+strconv.Itoa(i)+"]")
	}
}

// text returns a scalar as it is written.
func (d *decoder) text(n *yaml.Node, path string) (string, bool) {
	if !d.kind(n, path, yaml.ScalarNode) {
		return "", false
	}
	return n.Value, true
}

// reader makes a field reader of a scalar out of a parser and a place for the result.
func reader[T any](d *decoder, into *T, parse func(string) (T, error)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		s, ok := d.text(n, path)
		if !ok {
			return
		}
		v, err := parse(s)
		if err != nil {
			d.add(n, path, "%v", err)
			return
		}
		*into = v
	}
}

// between restricts a parser to a range; show writes the bounds.
func between[T int64 | uint32 | uint64 | float64 | time.Duration](parse func(string) (T, error), low, high T, show func(T) string) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := parse(s)
		if err == nil && (v < low || v > high) {
			err = fmt.Errorf("%s is out of range: want %s to %s", s, show(low), show(high))
		}
		return v, err
	}
}

func parseCount(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no count: want a whole number", s)
	}
	return uint32(n), nil
}

func parseNumber(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v != v || v > 1e300 || v < -1e300 {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return v, nil
}

func showCount(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func showNumber(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// protoDuration makes a duration parser give the protobuf form; zero is the default and stays
// unset.
func protoDuration(high time.Duration) func(string) (*durationpb.Duration, error) {
	parse := between(ParseDuration, 0, high, FormatDuration)
	return func(s string) (*durationpb.Duration, error) {
		v, err := parse(s)
		if err != nil || v == 0 {
			return nil, err
		}
		return durationpb.New(v), nil
	}
}

// word is one name of an enumeration's value.
type word[E any] struct {
	name  string
	value E
}

// oneOf parses an enumeration written as a word.
func oneOf[E any](what string, words []word[E]) func(string) (E, error) {
	return func(s string) (E, error) {
		for _, w := range words {
			if w.name == s {
				return w.value, nil
			}
		}
		list, names := namesOf(words), map[string]bool{}
		for _, n := range list {
			names[n] = true
		}
		var zero E
		return zero, fmt.Errorf("%q is no %s%s: want %s", s, what, nearest(s, names), strings.Join(list, ", "))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// suggest names the near miss, or else all fields there are.
func suggest(s string, f fields) string {
	names := map[string]bool{}
	for k := range f {
		names[k] = true
	}
	if n := nearest(s, names); n != "" {
		return n
	}
	list := make([]string, 0, len(f))
	for k := range f {
		list = append(list, k)
	}
	slices.Sort(list)
	return ": the fields here are " + strings.Join(list, ", ")
}

// nearest is ` (did you mean "x"?)` where a name is near enough, else empty.
func nearest(s string, names map[string]bool) string {
	best, at := "", 3
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	plain := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	for _, n := range sorted {
		d := distance(plain(s), plain(n))
		if d < at && d < len(n) {
			best, at = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance counts the edits (insert, drop, replace) between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// load parses the file into its one document.
func load(data []byte) (*yaml.Node, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("is %d bytes: at most %d", len(data), MaxBytes)
	}
	l, err := yaml.NewLoader(strings.NewReader(string(data)))
	if err != nil {
		return nil, err
	}
	var doc, more yaml.Node
	if err := l.Load(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("is empty: want at least name, format and source; `solo init` makes one to start from")
	} else if err != nil {
		if at, ok := errors.AsType[*yaml.LoadError](err); ok && at.Mark.Line > 0 {
			return nil, fmt.Errorf("is not YAML or JSON: %s at line %d, column %d", at.Message, at.Mark.Line, at.Mark.Column)
		}
		return nil, fmt.Errorf("is not YAML or JSON: %w", err)
	}
	if err := l.Load(&more); err == nil {
		return nil, errors.New("holds more than one document: want one manifest a file")
	}
	n := &doc
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	return n, nil
}
