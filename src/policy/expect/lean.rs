//! By how much more attempts fail at one endpoint than their keys do anyway.

use std::sync::atomic::{AtomicU32, Ordering};

/// A moving mean of (failed − q) over about the last 64 attempts, shared by the workers. A path that fails everywhere
/// moves it nowhere.
#[derive(Debug, Default)]
pub struct Lean(AtomicU32);

impl Lean {
    /// Takes note of an attempt whose key fails with the share `q`.
    pub fn note(&self, failed: bool, q: f64) {
        let target = f64::from(u8::from(failed)) - q;
        let mean = self.get();
        #[expect(clippy::cast_possible_truncation, reason = "a mean of numbers between -1 and 1")]
        let next = (mean + (target - mean) * WEIGHT) as f32;
        self.0.store(next.to_bits(), Ordering::Relaxed);
    }

    /// The mean, in [-1, 1].
    pub fn get(&self) -> f64 {
        f64::from(f32::from_bits(self.0.load(Ordering::Relaxed)))
    }

    /// Whether what must not fail had better go where the mean is `best`: by more than chance moves the means of two
    /// endpoints that are alike.
    pub fn is_clearly_worse_than(&self, best: f64) -> bool {
        self.get() > best + CLEARLY
    }

    /// Forgets everything.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What one attempt weighs.
const WEIGHT: f64 = 1.0 / 64.0;

/// By how much the means of two endpoints differ that are not alike.
const CLEARLY: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_failures_that_nobody_expected_make_an_endpoint_clearly_worse() {
        let lean = Lean::default();
        for _ in 0..3 {
            lean.note(true, 0.009);
        }
        assert!(!lean.is_clearly_worse_than(0.0));
        lean.note(true, 0.009);
        assert!(lean.is_clearly_worse_than(0.0));
    }

    #[test]
    fn what_fails_everywhere_says_nothing_about_an_endpoint() {
        let lean = Lean::default();
        for _ in 0..1000 {
            lean.note(true, 0.998);
            lean.note(false, 0.009);
        }
        assert!(!lean.is_clearly_worse_than(0.0), "{}", lean.get());
    }
}
