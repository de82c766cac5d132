//! Durations counted in logarithmic buckets: bounded memory, and quantiles that are never too low and at most 1/32 too
//! high.

use std::time::Duration;

/// A histogram of durations, to the microsecond.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
}

impl Histogram {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0 }
    }

    /// Counts one duration; those beyond 19 hours share the last bucket.
    pub(super) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[index(micros)] += 1;
        self.count += 1;
    }

    /// The least duration that at least the share `quantile` of the recorded ones do not exceed, rounded up to its
    /// bucket's end; none of an empty histogram.
    pub(super) fn quantile(&self, quantile: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count"
        )]
        let rank = ((quantile.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        })?;
        Some(Duration::from_micros(last_of(bucket)))
    }
}

/// The bucket of a value: below 2·`STEPS` one each, above that `STEPS` between a power of two and the next.
fn index(micros: u64) -> usize {
    let octave = micros.max(1).ilog2().saturating_sub(STEP_BITS);
    // Within the octave the top bits, from STEPS on, count the step; each octave before took STEPS places.
    let place = u64::from(octave) * STEPS + (micros >> octave);
    usize::try_from(place).map_or(BUCKETS - 1, |place| place.min(BUCKETS - 1))
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let octave = (bucket / STEPS).saturating_sub(1);
    let step = bucket - octave * STEPS;
    ((step + 1) << octave) - 1
}

const STEP_BITS: u32 = 5;
const STEPS: u64 = 1 << STEP_BITS;
/// Up to 2^36 µs.
const BUCKETS: usize = 32 * 32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), None);
    }

    #[test]
    fn what_is_too_long_to_tell_apart_is_still_counted() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.quantile(0.5), Some(Duration::ZERO));
        assert!(histogram.quantile(1.0) > Some(Duration::from_hours(16)));
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_too_low_and_at_most_a_32nd_too_high(
            mut micros in proptest::collection::vec(0u64..20_000_000, 1..300),
            quantile in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::new();
            for value in &micros {
                histogram.record(Duration::from_micros(*value));
            }
            micros.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = ((quantile * micros.len() as f64).ceil() as usize).max(1);
            let exact = micros[rank - 1];
            let told = u64::try_from(histogram.quantile(quantile).unwrap().as_micros()).unwrap();
            prop_assert!(exact <= told && told <= exact + exact / STEPS, "{exact} {told}");
        }

        #[test]
        fn each_value_lies_in_its_bucket_and_not_in_the_one_before(value in 0u64..1 << 36) {
            let bucket = index(value);
            prop_assert!(value <= last_of(bucket));
            prop_assert!(bucket == 0 || value > last_of(bucket - 1));
        }
    }
}
