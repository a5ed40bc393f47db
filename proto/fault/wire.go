package fault

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// GRPCStatus makes a fault a gRPC error as it is.
func (e *Error) GRPCStatus() *status.Status { return status.FromProto(e.Proto()) }

// Proto is the fault as google.rpc.Status: ErrorInfo always, BadRequest, RetryInfo,
// QuotaFailure and Help where they apply.
func (e *Error) Proto() *spb.Status {
	info := &errdetails.ErrorInfo{Reason: e.Reason, Domain: Domain, Metadata: map[string]string{}}
	for k, v := range e.Metadata {
		info.Metadata[k] = v
	}
	info.Metadata["retryable"] = "false"
	if e.Retryable {
		info.Metadata["retryable"] = "true"
	}
	details := []proto.Message{info}
	if len(e.Fields) > 0 {
		br := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			br.FieldViolations = append(br.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Description})
		}
		details = append(details, br)
	}
	if e.Retryable {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if e.Code == codes.ResourceExhausted {
		details = append(details, &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: e.Metadata["object"], Description: e.Message}}})
	}
	if e.Help != "" {
		details = append(details, &errdetails.Help{Links: []*errdetails.Help_Link{{Description: e.Help}}})
	}
	st := &spb.Status{Code: int32(e.Code), Message: e.Message}
	for _, d := range details {
		if a, err := anypb.New(d); err == nil {
			st.Details = append(st.Details, a)
		}
	}
	return st
}

// FromProto reads a fault out of a google.rpc.Status; nil for OK. One without details, from a
// client library or a proxy, has its canonical code for a reason.
func FromProto(st *spb.Status) *Error {
	if st.GetCode() == int32(codes.OK) {
		return nil
	}
	e := New(codes.Code(st.GetCode()), code.Code(st.GetCode()).String(), "%s", st.GetMessage())
	for _, a := range st.GetDetails() {
		m, err := a.UnmarshalNew()
		if err != nil {
			continue
		}
		switch d := m.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = d.GetReason()
			for k, v := range d.GetMetadata() {
				if k == "retryable" {
					e.Retryable = v == "true"
					continue
				}
				e.With(k, v)
			}
		case *errdetails.BadRequest:
			for _, f := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{f.GetField(), f.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.Retryable, e.RetryAfter = true, d.GetRetryDelay().AsDuration()
		case *errdetails.Help:
			for _, l := range d.GetLinks() {
				e.Help = l.GetDescription()
			}
		}
	}
	return e
}

// MarshalJSON is the google.rpc.Status as protobuf JSON, the body of an error reply on the bus.
func (e *Error) MarshalJSON() ([]byte, error) { return protojson.Marshal(e.Proto()) }

// ParseJSON reads what MarshalJSON wrote. Details of unknown types are an error, so a caller
// that meets a newer peer keeps the headers' code and text.
func ParseJSON(b []byte) (*Error, error) {
	st := &spb.Status{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, st); err != nil {
		return nil, err
	}
	if e := FromProto(st); e != nil {
		return e, nil
	}
	return nil, errors.New("fault: an error reply with status OK")
}

func fromStatusError(err error) *Error {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	return FromProto(st.Proto())
}
