package manifest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What the documentation shows is read as it stands, and it knows every field.
func TestTheDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(doc, -1)
	if len(blocks) < 2 {
		t.Fatalf("%d examples", len(blocks))
	}
	for _, m := range blocks {
		if _, err := Parse("docs/manifest.md", []byte(m[1])); err != nil {
			t.Errorf("%v\n%s", err, m[1])
		}
	}
	renamed := map[string]string{"memory_bytes": "memory", "cpu_millis": "cpu", "state_bytes": "state", "flush_through": "flush_interval"}
	var walk func(path string, d protoreflect.MessageDescriptor)
	walk = func(path string, d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			name := string(f.Name())
			if n := renamed[name]; n != "" {
				name = n
			}
			p := join(path, name)
			if f.Message() != nil && !f.IsMap() && strings.HasPrefix(string(f.Message().FullName()), "solo.v1.") && name != "actions" && name != "steps" {
				if f.IsList() {
					p += "[]"
				}
				walk(p, f.Message())
				continue
			}
			if !strings.Contains(doc, "`"+p+"`") {
				t.Errorf("docs/manifest.md does not know %s", p)
			}
		}
	}
	walk("", (&solov1.Manifest{}).ProtoReflect().Descriptor())
}
