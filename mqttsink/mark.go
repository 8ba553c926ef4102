package mqttsink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Session Present says that there is a session, not that it is ours: a broker that lost our session
// may have made another one for a connection that failed, or may have restored an old state from
// its disk. A mark tells them apart. It is a few private subscriptions, which MQTT keeps as a part
// of the session [MQTT 5, 4.1]: UNSUBSCRIBE is answered with 0x00 if the subscription existed, and
// with 0x11 if not [MQTT 5, 3.11.3]. Nobody publishes to their topics.
//
// The question removes the subscription that it asks about, and we may be killed before we can
// restore it. So a mark has markCopies subscriptions. We ask about one at a time until one is
// found, and then restore all that we asked about. Our own session looks like another one only
// after that many interruptions in a row without one success in between; this costs a repetition,
// never a loss.
//
// A mark does not show whether the restored state is older than the newest messages, if it is
// younger than the mark. Mosquitto restores such a state after a kill -9. The lane sends again what
// it has not released, whatever the mark says.
const (
	markTopics = "reactor/session/"
	markCopies = 4
)

const (
	codeSuccess        = 0x00
	codeNoSubscription = 0x11
	codeNotAuthorized  = 0x87
)

const allowMarks = "allow the user of reactor to subscribe to " + markTopics + "#"

func markFilter(mark string, copy int) string {
	return markTopics + mark + "/" + strconv.Itoa(copy)
}

// Mark implements driver.Session. Before it trusts a broker, it makes the broker give both answers:
// for a subscription that never existed (HiveMQ CE answers with success: its UnsubscribeHandler
// does not check), and for one that it has just granted.
//
// Some brokers end the connection instead of refusing a subscription. Mark then returns
// ErrCannotMark as well: at once if the broker gives that reason, otherwise when it has done so to
// this client id several times in a row, and does it to a client id of our own as well.
func (s *session) Mark(ctx context.Context, mark string) error {
	if mark == "" {
		return errors.New("the mark is empty")
	}
	if err := checkTopic(markFilter(mark, 0)); err != nil {
		return fmt.Errorf("the mark: %w", err)
	}
	err := s.leaveMark(ctx, mark)
	switch {
	case err == nil || errors.Is(err, driver.ErrCannotMark):
		s.closeCounts.forget(s.clientID)
	case ctx.Err() == nil && s.refusesByClosing(ctx):
		return fmt.Errorf("%w: it ends the connection when we subscribe (%w): %s", driver.ErrCannotMark, err, allowMarks)
	}
	return err
}

func (s *session) leaveMark(ctx context.Context, mark string) error {
	probe := markFilter(mark, 0)
	codes, err := s.unsubscribe(ctx, probe)
	if err != nil {
		return err
	}
	switch codes[0] {
	case codeNoSubscription:
	case codeSuccess:
		return fmt.Errorf("%w: it reports a subscription that never existed", driver.ErrCannotMark)
	default:
		return fmt.Errorf("%w: it refuses to unsubscribe (%s): %s", driver.ErrCannotMark, reasonText(codes[0]), allowMarks)
	}
	filters := []string{probe}
	for i := range markCopies {
		filters = append(filters, markFilter(mark, i+1))
	}
	if codes, err = s.subscribe(ctx, filters...); err != nil {
		return err
	}
	if i := slices.IndexFunc(codes, refused); i >= 0 {
		return s.undo(ctx, filters, fmt.Errorf("%w: it refuses to subscribe (%s): %s", driver.ErrCannotMark, reasonText(codes[i]), allowMarks))
	}
	if codes, err = s.unsubscribe(ctx, probe); err != nil {
		return err
	}
	if codes[0] != codeSuccess {
		return s.undo(ctx, filters, fmt.Errorf("%w: it does not find what it has granted (%s)", driver.ErrCannotMark, reasonText(codes[0])))
	}
	return nil
}

// undo removes an incomplete mark, and returns why.
func (s *session) undo(ctx context.Context, filters []string, why error) error {
	if _, err := s.unsubscribe(ctx, filters...); err != nil {
		return err
	}
	return why
}

// recognize finds out whether the session carries the mark of a lane. whole means that after the question
// no subscription of the mark is missing.
//
// With several brokers the mark may have been left at another one, and this one may be of those that find
// every subscription. So it is asked first about one that is never there while a mark is. If it finds
// that, only the broker where the lane was last is trusted, as without a mark.
func (s *session) recognize(ctx context.Context, opts driver.ConnectOptions) (found, whole bool, err error) {
	mark := opts.Mark
	if len(s.at.choice.brokers) > 1 {
		codes, err := s.unsubscribe(ctx, markFilter(mark, 0))
		if err != nil {
			return false, false, err
		}
		if codes[0] == codeSuccess {
			return opts.Broker == s.at.address, false, nil
		}
	}
	var asked []string
	for i := range markCopies {
		filter := markFilter(mark, i+1)
		codes, err := s.unsubscribe(ctx, filter)
		if err != nil {
			return false, false, err
		}
		asked = append(asked, filter)
		switch codes[0] {
		case codeNoSubscription:
			continue
		case codeSuccess:
		default:
			// The broker once allowed it, and without an answer we do not know whether this session
			// is ours. Nothing was removed.
			return false, false, &driver.ConnectRefusedError{
				Broker: s.broker, Code: codes[0],
				Reason: "it refuses to unsubscribe (" + reasonText(codes[0]) + "), which tells whether the session is ours: " + allowMarks,
			}
		}
		if codes, err = s.subscribe(ctx, asked...); err != nil {
			return false, false, err
		}
		return true, !slices.ContainsFunc(codes, refused), nil
	}
	return false, false, nil
}

func refused(code byte) bool { return code >= 0x80 }

// refusesByClosing reports whether the broker ended the session because it subscribed.
//
// Without a reason that is a guess, and a wrong one loses messages: a lane without marks trusts
// every session that the broker has for it. Mosquitto before 2.1 closes a connection without a word
// too when somebody else connects with its client id, as a copy of the database does that uses the
// same broker, and that may be just then, again and again. Nobody else has the client id of a probe,
// so the probe's connection tells the two apart.
func (s *session) refusesByClosing(ctx context.Context) bool {
	var d *driver.DisconnectedError
	err := s.Err()
	switch {
	case errors.As(err, &d):
		switch d.Code {
		case 0x81, 0x82, 0x83, codeNotAuthorized, 0x8F, 0xA1, 0xA2: // codes that a SUBSCRIBE may cause
			return true
		}
	case closedWithoutReason(err):
		if s.closeCounts.count(s.clientID) < closesInARow {
			return false
		}
		if s.at.closesOnMarks(ctx) {
			return true
		}
		s.closeCounts.forget(s.clientID)
	}
	return false
}

func closedWithoutReason(err error) bool {
	return errors.Is(err, errClosedByBroker) || errors.Is(err, syscall.ECONNRESET)
}

// closesOnMarks reports whether the broker ends each connection of a probe that leaves a mark. The
// probe's session ends with its connection. Where the broker lets no client id in that it does not
// know, there is no way to ask, and the lane's own connections have to do as an answer.
func (b *broker) closesOnMarks(ctx context.Context) bool {
	for range closesInARow {
		connected, err := b.connect(ctx, driver.ConnectOptions{
			ClientID: newProbeID(), Fresh: true, Acks: func([]driver.Ack) {},
		})
		if err != nil {
			var refused *driver.ConnectRefusedError
			return errors.As(err, &refused) && refusesID(refused.Code)
		}
		probe := connected.(*session)
		err = probe.leaveMark(ctx, rand.Text())
		ended := probe.Err()
		probe.end(errClosed)
		<-probe.done
		if errors.Is(err, driver.ErrCannotMark) {
			return true
		}
		if !closedWithoutReason(ended) {
			return false
		}
	}
	return true
}
