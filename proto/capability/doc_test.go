package capability

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The rules that the documentation shows are rules, and it knows every verb.
func TestTheDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/capabilities.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	block := regexp.MustCompile("(?s)```rules\n(.*?)```").FindStringSubmatch(doc)
	if block == nil {
		t.Fatal("no examples")
	}
	for line := range strings.Lines(block[1]) {
		if _, err := ParseRule(strings.TrimSpace(line)); err != nil {
			t.Error(err)
		}
	}
	for _, k := range []Kind{Service, Audit, Kernel, Egress} {
		for _, v := range verbs(k) {
			if !strings.Contains(doc, "`"+string(v)+"`") {
				t.Errorf("docs/capabilities.md does not know %s", v)
			}
		}
	}
}
