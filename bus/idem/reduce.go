package idem

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxAnswer bounds a kept answer in bytes. One that is larger is kept without its largest fields: a
// retry learns that it was done, and asks for the rest.
const MaxAnswer = 64 << 10

// reduced is m if it is within MaxAnswer, or else a copy without its largest fields, the innermost
// first: what is large in a message goes, not the message.
func reduced(m proto.Message) proto.Message {
	if proto.Size(m) <= MaxAnswer {
		return m
	}
	m = proto.Clone(m)
	for proto.Size(m) > MaxAnswer {
		if !clearLargest(m.ProtoReflect()) {
			proto.Reset(m) // nothing of it is known to this version
		}
	}
	return m
}

// clearLargest clears the largest field, or the largest within it; false when there is none.
func clearLargest(m protoreflect.Message) bool {
	var largest protoreflect.FieldDescriptor
	most := -1
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		alone := m.New()
		alone.Set(d, v)
		if n := proto.Size(alone.Interface()); n > most {
			largest, most = d, n
		}
		return true
	})
	if largest == nil {
		return false
	}
	if largest.Message() == nil || largest.IsList() || largest.IsMap() || !clearLargest(m.Get(largest).Message()) {
		m.Clear(largest)
	}
	return true
}
