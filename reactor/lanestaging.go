package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// longestAskPause is between two questions that got no answer.
const longestAskPause = time.Minute

// staging finds out, beside a lane that works already, whether messages can be sent over its session
// before their time (Config.Stage). It is asked anew over each connection: a broker that was away may
// be another one now.
type staging struct {
	lead   *lead
	cancel context.CancelFunc
	asking sync.WaitGroup
	stages atomic.Bool
	gauge  *atomic.Int64 // lanes that stage
}

// beginStaging begins to ask. The caller ends it with the session.
func (r *laneRunner) beginStaging(ctx context.Context, session driver.Session) *staging {
	s := &staging{lead: r.lane.lead, gauge: &r.stats.lanesStaging, cancel: func() {}}
	if r.delivery != ExactlyOnce || r.stage == StageOff {
		return s
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.asking.Go(func() {
		passing, err := r.askPassing(ctx, session)
		if ctx.Err() != nil {
			return
		}
		r.broker.passesOn(r.log, passing, r.stage, err)
		withholds := passing == driver.PassesOnAtRelease
		if withholds || passing == driver.PassingUnclear && r.stage == StageOn {
			s.stages.Store(true)
			s.gauge.Add(1)
			s.lead.stages(1)
			r.lane.stage(session, withholds)
		}
	})
	return s
}

// askPassing asks until there is an answer, or there can be none.
func (r *laneRunner) askPassing(ctx context.Context, session driver.Session) (driver.Passing, error) {
	pause := wait.Backoff{Most: longestAskPause}
	for {
		passing, err := session.PassesOn(ctx)
		if err == nil || errors.Is(err, driver.ErrCannotAsk) || ctx.Err() != nil {
			return passing, err
		}
		r.log.Debug("cannot find out when the broker passes messages on; trying again", "client_id", r.clientID, "err", err)
		if !pause.Sleep(ctx) {
			return driver.PassingUnclear, ctx.Err()
		}
	}
}

func (s *staging) end() {
	s.cancel()
	s.asking.Wait()
	if s.stages.Load() {
		s.gauge.Add(-1)
		s.lead.stages(-1)
	}
}

// passesOn says when the broker passes messages on, whenever that is something new.
func (b *broker) passesOn(log *slog.Logger, passing driver.Passing, policy Staging, why error) {
	if b.passing.Swap(int32(passing)+1) == int32(passing)+1 {
		return
	}
	switch {
	case passing == driver.PassesOnAtRelease:
		log.Info("the broker passes messages on when they are released: they are sent before their time, and released at it")
	case passing == driver.PassesOnAtPublish && policy == StageOn:
		log.Error("the broker passes messages on when they are published: none can be sent before its time, though Stage is on")
	case passing == driver.PassesOnAtPublish:
		log.Info("the broker passes messages on when they are published: none is sent before its time")
	case policy == StageOn:
		log.Warn("it is not clear when the broker passes messages on; as Stage is on, they are sent before their time all the same", "err", why)
	default:
		log.Warn("it is not clear when the broker passes messages on: none is sent before its time", "err", why)
	}
}
