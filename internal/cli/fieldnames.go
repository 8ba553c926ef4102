package cli

import (
	"context"
	"log/slog"
	"regexp"
	"strings"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// The libraries' texts name fields of their configurations, such as pgsource.Config.ListenURL.
// Users of the command know the flags and not the fields. So InFlagTerms rewrites every text
// that the command shows.

// configField matches a field with its package. If the text goes on with a value that the field
// has or should have, it matches that too: "reactor.Config.Delivery to AtLeastOnce or AtMostOnce".
var configField = regexp.MustCompile(`\b(?:pgsource|mqttsink|reactor)\.Config\.([A-Z][A-Za-z]*)((?: is| to) [A-Z][A-Za-z]*(?: or [A-Z][A-Za-z]*)*)?`)

// fieldValue matches words that may be values of a field.
var fieldValue = regexp.MustCompile(`[A-Z][A-Za-z]*`)

// valueOf maps the name of a constant to the value of the flag.
var valueOf = map[string]string{
	"ExactlyOnce": reactor.ExactlyOnce.String(), "AtLeastOnce": reactor.AtLeastOnce.String(), "AtMostOnce": reactor.AtMostOnce.String(),
	"Republish": reactor.Republish.String(), "Fail": reactor.Fail.String(),
	"FeedAuto": pgsource.FeedAuto.String(), "FeedWAL": pgsource.FeedWAL.String(), "FeedNotify": pgsource.FeedNotify.String(), "FeedPoll": pgsource.FeedPoll.String(),
	"NoPartitions": "0",
}

// InFlagTerms replaces fields in a text by their flags, and values of the fields by values of the
// flags: "set reactor.Config.Delivery to AtLeastOnce" becomes "set --delivery to at-least-once". A
// field without a flag is not changed.
func InFlagTerms(text string) string {
	if !strings.Contains(text, ".Config.") { // the usual case
		return text
	}
	return configField.ReplaceAllStringFunc(text, func(found string) string {
		parts := configField.FindStringSubmatch(found)
		flag := FlagOf[parts[1]]
		if flag == "" {
			return found
		}
		return "--" + flag + fieldValue.ReplaceAllStringFunc(parts[2], func(name string) string {
			if value := valueOf[name]; value != "" {
				return value
			}
			return name
		})
	})
}

// flagTermsHandler is a slog.Handler that logs messages, texts and errors in terms of the flags.
type flagTermsHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h flagTermsHandler) Handle(ctx context.Context, r slog.Record) error {
	rewritten := slog.NewRecord(r.Time, r.Level, InFlagTerms(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		rewritten.AddAttrs(attrInFlagTerms(a))
		return true
	})
	return h.Handler.Handle(ctx, rewritten)
}

// WithAttrs implements slog.Handler.
func (h flagTermsHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return flagTermsHandler{h.Handler.WithAttrs(attrsInFlagTerms(attrs))}
}

// WithGroup implements slog.Handler.
func (h flagTermsHandler) WithGroup(name string) slog.Handler {
	return flagTermsHandler{h.Handler.WithGroup(name)}
}

func attrsInFlagTerms(attrs []slog.Attr) []slog.Attr {
	list := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		list[i] = attrInFlagTerms(a)
	}
	return list
}

func attrInFlagTerms(a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(InFlagTerms(v.String()))
	case slog.KindGroup:
		a.Value = slog.GroupValue(attrsInFlagTerms(v.Group())...)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case nil: // such as an error that there was not: a handler leaves an empty Attr out
			return slog.Attr{}
		case error:
			a.Value = slog.AnyValue(flagTermsError{x})
		case []string:
			a.Value = slog.AnyValue(TextsInFlagTerms(x))
		}
	}
	return a
}

// TextsInFlagTerms applies InFlagTerms to each text.
func TextsInFlagTerms(texts []string) []string {
	list := make([]string, len(texts))
	for i, text := range texts {
		list[i] = InFlagTerms(text)
	}
	return list
}

// flagTermsError is an error whose text is in terms of the flags. It has to be an error and not a
// string, because handlers format errors in a special way.
type flagTermsError struct{ error }

func (e flagTermsError) Error() string { return InFlagTerms(e.error.Error()) }
func (e flagTermsError) Unwrap() error { return e.error }
