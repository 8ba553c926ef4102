package pgsource

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ErrNoJob: there is no such job, or its row was deleted: cancelled, purged, or by hand.
var ErrNoJob = errors.New("there is no such job: it was never there, or its row was deleted")

// JobDetail is everything that the database knows about a job.
type JobDetail struct {
	Job
	Shard                  int
	ExpiresAt, ProcessedAt *driver.DBTime
	// OccurrenceAt is the time of the occurrence, of a job of a schedule.
	OccurrenceAt *driver.DBTime
	// Claim is the last claim, as a UUID; "": none.
	Claim string
	// Payload is the beginning of the payload, and PayloadSize the length of all of it in bytes. Binary: it
	// comes from payload_bytes.
	Payload     []byte
	PayloadSize int64
	Binary      bool
	// QoS is that of the row; nil: that of the deployment.
	QoS            *int
	Retain         bool
	ContentType    string
	ResponseTopic  string
	Correlation    []byte
	Headers        map[string]string
	PartitionedOff string // the partition or child table that holds the row; "": the table itself
	// Flight is set while the job is firing.
	Flight *JobFlight
	// History is what has happened, in order, as far as the database keeps it: of several attempts
	// the last.
	History []JobEvent
}

// JobFlight is where a job is that is being published.
type JobFlight struct {
	Lane  int
	Batch int64
	// Instance is the name of the lane's owner; "": it has none at the moment, and another instance is
	// about to take it over.
	Instance  string
	ClaimedAt driver.DBTime
	QoS       int
	// Accepted: the broker has received the message, at QoS 2.
	Accepted bool
}

// JobEvent is one event of a job's history.
type JobEvent struct {
	At   driver.DBTime
	What string
	// Beyond is as in Job.
	Beyond time.Duration
}

// Time is when it happened.
func (e JobEvent) Time() time.Time { return e.At.Time().Add(e.Beyond) }

// PreviewBytes is how much of a payload JobsAdmin.Show returns, and JobsAdmin.Schedules and Schedule, of a text in characters.
const PreviewBytes = 1024

// Show returns the job with an id. Where the table has partitions, or the id was given twice by hand,
// there may be several.
func (a *JobsAdmin) Show(ctx context.Context, id int64) ([]JobDetail, error) {
	a.needs = toShow
	var args parameters
	return a.show(ctx, "job.id = "+args.add(id, "bigint"), args)
}

// ShowKey returns the job with a key: the one that has not fired, otherwise the last that has.
func (a *JobsAdmin) ShowKey(ctx context.Context, key string) ([]JobDetail, error) {
	a.needs = toShow
	id, err := a.idOfKey(ctx, key)
	if err != nil {
		return nil, err
	}
	return a.Show(ctx, id)
}

// idOfKey finds the job that a key means, as reactor.find_job does.
func (a *JobsAdmin) idOfKey(ctx context.Context, key string) (id int64, err error) {
	if err := a.find(ctx); err != nil {
		return 0, err
	}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT id FROM (
			    (SELECT id, 0 AS rank FROM `+a.jobs+` WHERE key = $1::text AND NOT processed ORDER BY fire_at LIMIT 1)
			    UNION ALL
			    (SELECT id, 1 FROM `+a.jobs+` WHERE key = $1::text AND processed ORDER BY id DESC LIMIT 1)) AS found
			 ORDER BY rank LIMIT 1`, key).Scan(&id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoJob
	}
	return id, err
}

func (a *JobsAdmin) show(ctx context.Context, where string, args parameters) (list []JobDetail, err error) {
	if err := a.find(ctx); err != nil {
		return nil, err
	}
	preview := fmt.Sprint(PreviewBytes)
	sql := "WITH " + journalCTE + ", shown AS (SELECT" + listedColumns + `,
       job.shard, ` + micros("job.expires_at") + ` AS expires_at, ` + micros("job.processed_at") + ` AS processed_at, ` + micros("job.occurrence_at") + ` AS occurrence, coalesce(job.claim::text, '') AS claim,
       encode(coalesce(substring(job.payload_bytes FROM 1 FOR ` + preview + `), substring(convert_to(left(job.payload, ` + preview + `), 'UTF8') FROM 1 FOR ` + preview + `)), 'hex') AS payload,
       octet_length(job.payload) + coalesce(octet_length(job.payload_bytes), 0) AS payload_size, job.payload_bytes IS NOT NULL AS is_binary,
       job.qos, job.retain, coalesce(job.content_type, '') AS content_type, coalesce(job.response_topic, '') AS response_topic,
       coalesce(encode(job.correlation_data, 'hex'), '') AS correlation, coalesce(job.headers::text, '{}') AS headers,
       CASE WHEN job.tableoid = ` + "'" + doubled(a.jobs) + `'::regclass THEN '' ELSE job.tableoid::regclass::text END AS part,
       flight.lane, flight.batch, coalesce((SELECT i.name FROM reactor.instances i WHERE i.id = flight.owner), '') AS instance,
       ` + micros("flight.claimed_at") + ` AS claimed_at, coalesce(flight.qos, 0) AS flight_qos, coalesce(flight.qos = 2 AND flight.place <= flight.settled, false) AS accepted
  FROM ` + a.jobs + " AS job" + notesJoin + " WHERE " + where + ") SELECT " + readJobColumns + `,
       shard, expires_at, processed_at, occurrence, claim, payload, payload_size, is_binary, qos, retain, content_type, response_topic, correlation, headers, part,
       lane, batch, instance, claimed_at, flight_qos, accepted FROM shown ORDER BY fire_at, id`
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanDetail); err != nil {
			return err
		}
		jobs := make([]*Job, len(list))
		for i := range list {
			jobs[i] = &list[i].Job
		}
		if err := nameSchedules(ctx, tx, jobs); err != nil {
			return err
		}
		return a.explainOrder(ctx, tx, jobs)
	})
	if err == nil && len(list) == 0 {
		err = ErrNoJob
	}
	return list, err
}

func scanDetail(row pgx.CollectableRow) (d JobDetail, err error) {
	var (
		payload, correlation, headers, instance string
		lane                                    *int
		batch                                   *int64
		claimedAt                               *driver.DBTime
		flight                                  JobFlight
	)
	if err := row.Scan(append(d.fields(), &d.Shard, &d.ExpiresAt, &d.ProcessedAt, &d.OccurrenceAt, &d.Claim, &payload, &d.PayloadSize, &d.Binary,
		&d.QoS, &d.Retain, &d.ContentType, &d.ResponseTopic, &correlation, &headers, &d.PartitionedOff,
		&lane, &batch, &instance, &claimedAt, &flight.QoS, &flight.Accepted)...); err != nil {
		return d, err
	}
	if d.Payload, err = hex.DecodeString(payload); err != nil {
		return d, err
	}
	if d.Correlation, err = hex.DecodeString(correlation); err != nil {
		return d, err
	}
	if err := json.Unmarshal([]byte(headers), &d.Headers); err != nil {
		return d, fmt.Errorf("the headers of job %d are no JSON object of strings: %w", d.ID, err)
	}
	if lane != nil {
		flight.Lane, flight.Batch, flight.Instance, flight.ClaimedAt = *lane, *batch, instance, *claimedAt
		d.Flight = &flight
	}
	d.History = d.history()
	return d, nil
}

// history puts in order what the columns tell. processed_at is the time of the claim, or fire_at if
// that is later.
func (d *JobDetail) history() (list []JobEvent) {
	add := func(at *driver.DBTime, format string, args ...any) {
		if at != nil {
			list = append(list, JobEvent{At: *at, What: fmt.Sprintf(format, args...)})
		}
	}
	list = append(list, JobEvent{At: d.FireAt, Beyond: d.Beyond, What: "due"})
	switch {
	case d.Flight != nil:
		add(&d.Flight.ClaimedAt, "claimed, batch %d of lane %d", d.Flight.Batch, d.Flight.Lane)
	case d.Claim == "":
		add(d.ProcessedAt, "marked as processed, not by reactor")
	case d.ProcessedAt != nil && d.State == JobFired:
		add(d.ProcessedAt, "claimed, and published")
	default:
		add(d.ProcessedAt, "claimed")
	}
	times := "once"
	if d.Attempts > 1 {
		times = fmt.Sprintf("%d times", d.Attempts)
	}
	if d.Attempts > 0 && d.State == JobRetrying {
		add(d.RetryAt, "next attempt; refused %s, the last time because of: %s", times, d.Reason)
	}
	if d.State == JobBlocked {
		add(d.FailedAt, "could not be claimed: %s", d.Reason)
	} else {
		refused := ""
		if d.Attempts > 0 {
			refused = " after 1 attempt"
		}
		if d.Attempts > 1 {
			refused = fmt.Sprintf(" after %d attempts", d.Attempts)
		}
		add(d.FailedAt, "%s%s: %s", d.State, refused, d.Reason)
	}
	if !d.State.Final() || d.State == JobExpired { // otherwise it is of no consequence any more
		add(d.ExpiresAt, "expires, if it is not published before")
	}
	slices.SortStableFunc(list, func(x, y JobEvent) int { return cmp.Or(cmp.Compare(x.At, y.At), cmp.Compare(x.Beyond, y.Beyond)) })
	return list
}

// Payload returns the whole payload of the job with an id.
func (a *JobsAdmin) Payload(ctx context.Context, id int64) (payload []byte, err error) {
	if err := a.find(ctx); err != nil {
		return nil, err
	}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT coalesce(payload_bytes, convert_to(payload, 'UTF8')) FROM "+a.jobs+" WHERE id = $1::bigint LIMIT 1", id).Scan(&payload)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoJob
	}
	return payload, err
}
