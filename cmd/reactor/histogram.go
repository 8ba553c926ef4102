package main

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/job-publisher/reactor/reactor"
)

// A histogram is exported in two forms at once: with classic buckets, which every Prometheus reads, and
// with the buckets of a native histogram, which are much finer and cost it less. A scraper that
// understands the second takes that; the text format has the first only.
//
// client_golang has constant histograms of either form, not of both, and its own histogram would have to be
// observed on the way of each job. So this is a metric of our own over what the instance has counted.

const (
	// nativeSchema makes each bucket 2^(2^-3), i.e. 9 %, wider than the one before.
	nativeSchema = 3
	// nativeZero is below every value: none is taken for zero.
	nativeZero = 1e-9
)

var (
	// timeBounds are the ends of the classic buckets of times, in microseconds: from an eighth of a
	// millisecond to half a minute. They are ends of what the instance counts, too, so they are exact.
	timeBounds = doubled(125, 19)
	// sizeBounds are those of numbers of jobs.
	sizeBounds = doubled(1, 10)
)

// doubled returns n numbers, each twice the one before.
func doubled(first int64, n int) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = first << i
	}
	return all
}

// histogram is a prometheus.Metric.
type histogram struct {
	desc    *prometheus.Desc
	buckets []reactor.Bucket
	bounds  []int64 // of the classic buckets, in the unit of buckets
	unit    float64 // of buckets and bounds, in that of the metric
	sum     float64 // in the unit of the metric
}

// timeHistogram is one of seconds.
func timeHistogram(desc *prometheus.Desc, t reactor.Timing) prometheus.Metric {
	return histogram{desc, t.Buckets, timeBounds, 1e-6, t.Sum.Seconds()}
}

// sizeHistogram is one of numbers.
func sizeHistogram(desc *prometheus.Desc, s reactor.Sizes) prometheus.Metric {
	return histogram{desc, s.Buckets, sizeBounds, 1, float64(s.Sum)}
}

// Desc implements prometheus.Metric.
func (h histogram) Desc() *prometheus.Desc { return h.desc }

// Write implements prometheus.Metric.
func (h histogram) Write(out *dto.Metric) error {
	out.Histogram = &dto.Histogram{
		SampleSum: &h.sum, Bucket: h.classic(),
		Schema: new(int32(nativeSchema)), ZeroThreshold: new(float64(nativeZero)), ZeroCount: new(uint64(0)),
	}
	count := uint64(0)
	for _, b := range h.buckets {
		count += uint64(b.Count)
	}
	out.Histogram.SampleCount = &count
	out.Histogram.PositiveSpan, out.Histogram.PositiveDelta = h.native()
	return nil
}

// classic returns the classic buckets, each of which counts all values up to its end.
func (h histogram) classic() []*dto.Bucket {
	all := make([]*dto.Bucket, len(h.bounds))
	count, next := uint64(0), 0
	for i, bound := range h.bounds {
		for ; next < len(h.buckets) && h.buckets[next].Most <= bound; next++ {
			count += uint64(h.buckets[next].Count)
		}
		all[i] = &dto.Bucket{UpperBound: new(inUnit(bound, h.unit)), CumulativeCount: new(count)}
	}
	return all
}

// native returns the buckets of the native histogram, as it wants them: runs of buckets, and of each
// bucket how much more it counts than the one before. A value may be counted one bucket too high if it is
// within a hundredth of the end of its own.
func (h histogram) native() (spans []*dto.BucketSpan, deltas []int64) {
	var (
		counts []int64 // of the buckets in spans
		end    int32   // index behind the last of them
	)
	for _, b := range h.buckets {
		index := nativeIndex(float64(b.Most) * h.unit)
		switch {
		case len(counts) > 0 && index == end-1:
			counts[len(counts)-1] += b.Count
			continue
		case len(counts) > 0 && index == end:
			*spans[len(spans)-1].Length++
		default:
			spans = append(spans, &dto.BucketSpan{Offset: new(index - end), Length: new(uint32(1))})
		}
		counts, end = append(counts, b.Count), index+1
	}
	before := int64(0)
	for _, n := range counts {
		deltas = append(deltas, n-before)
		before = n
	}
	if len(spans) == 0 { // how a native histogram without values differs from a classic one
		spans = []*dto.BucketSpan{{Offset: new(int32(0)), Length: new(uint32(0))}}
	}
	return spans, deltas
}

// nativeIndex is the index of the bucket of a value: that ends at 2^(index/8) and begins behind the end of
// the one before.
func nativeIndex(value float64) int32 {
	const perDoubling = 1 << nativeSchema
	return int32(math.Ceil(math.Log2(value) * perDoubling))
}

// inUnit converts so that 1,000 µs are 0.001 s, and not 0.0009999999999999998.
func inUnit(value int64, unit float64) float64 { return float64(value) / math.Round(1/unit) }
