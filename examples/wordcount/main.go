// Wordcount is a WASM module: it counts the words of the text that it is sent.
package main

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("count", func(_ context.Context, text []byte) ([]byte, error) {
		return strconv.AppendInt(nil, int64(len(strings.Fields(string(text)))), 10), nil
	})
	guest.Handle("top", func(_ context.Context, text []byte) ([]byte, error) { return json.Marshal(top(string(text), 10)) })
}

// Word is a word and how often it stands in the text.
type Word struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// top returns the most frequent words, the first in the alphabet first where they are equal.
func top(text string, most int) []Word {
	counts := map[string]int{}
	for w := range strings.FieldsFuncSeq(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && r != '\'' }) {
		counts[w]++
	}
	words := make([]Word, 0, len(counts))
	for w, n := range counts {
		words = append(words, Word{w, n})
	}
	slices.SortFunc(words, func(a, b Word) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Word, b.Word)
	})
	return words[:min(most, len(words))]
}

func main() {}
