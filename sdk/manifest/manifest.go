// Package manifest reads and writes the manifest of a service as people write it: YAML, or
// JSON, which is YAML too. Reading is strict: an unknown field, a repeated one, a value of the
// wrong kind or out of bounds and fields that contradict each other are errors, all of them
// reported at once, each with its line, its column, its path and what would be right. What
// Parse accepts, Format writes back so that Parse reads the same.
package manifest

import (
	"fmt"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// MaxBytes bounds a manifest file.
const MaxBytes = 1 << 20

// Document is a manifest file: the message that goes to Solo, and where the code is.
type Document struct {
	Manifest *solov1.Manifest
	// Source is a path relative to the manifest's folder, or `sha256:` and 64 hex digits; empty
	// when the file names none.
	Source string
	// Where the file says so, counted from 1; 0 where it does not.
	SourceLine, SourceColumn int
}

// Problem is one thing wrong with a manifest.
type Problem struct {
	// Counted from 1; 0 when the problem has no place, such as a missing field.
	Line, Column int
	// Path of the field, e.g. `limits.memory`.
	Path string
	// What is wrong and what would be right.
	Message string
}

// Error is everything wrong with one manifest.
type Error struct {
	// File as it was named to Parse.
	File     string
	Problems []Problem
}

// Error has one line a problem: `file:line:column: path: message`.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		var b strings.Builder
		b.WriteString(e.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Message)
		lines[i] = b.String()
	}
	return strings.Join(lines, "\n")
}
