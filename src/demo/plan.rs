//! Which requests the demo's users send, and when: a pure sequence from a seed, so that both columns get the very same.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::Method;

use super::ledger::{Entry, PATIENTS};

/// A request and the time at which its user sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// From the start of the load.
    pub(super) at: Duration,
    /// GET or POST.
    pub(super) method: Method,
    /// The target.
    pub(super) path: String,
    /// The body and idempotency key of a POST.
    pub(super) post: Option<Post>,
    /// What a good answer contains, so that one which belongs to somebody else is not taken for one.
    pub(super) expects: String,
}

/// What only a POST has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Post {
    /// The value of its `Idempotency-Key`.
    pub(super) idempotency_key: String,
    /// Its body.
    pub(super) body: Bytes,
}

/// Arrivals without end, at random gaps whose mean is 1/rate, as users who know nothing of each other come.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    rate: f64,
    next: Duration,
    number: u64,
}

impl Plan {
    /// `rate` requests per second.
    pub(super) fn new(rate: u32, seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), rate: f64::from(rate), next: Duration::ZERO, number: 0 }
    }
}

impl Iterator for Plan {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.number += 1;
        self.next += Duration::from_secs_f64(-(1.0 - self.rng.f64()).ln() / self.rate);
        let (at, number) = (self.next, self.number);
        let (percent, patient) = (self.rng.u8(0..100), self.rng.u32(1..=PATIENTS));
        let idempotency_key = self.rng.u128(..);
        let belongs = format!("\"patient\":{patient}");
        let get = |path, expects| Arrival { at, method: Method::GET, path, post: None, expects };
        let post = |path, text: &str| {
            let key = format!("intent-{number}");
            let expects = format!("\"key\":\"{key}\"");
            let entry = Entry { key, text: text.to_owned() };
            let body = serde_json::to_vec(&entry).expect("two strings are JSON").into();
            let post = Post { idempotency_key: format!("{idempotency_key:032x}"), body };
            Arrival { at, method: Method::POST, path, post: Some(post), expects }
        };
        let notes = format!("/api/patients/{patient}/notes");
        let screenings = format!("/api/screenings/{patient}");
        Some(match percent {
            0..35 => get(format!("/api/patients/{patient}"), belongs),
            35..55 => get(notes, belongs),
            55..70 => get("/api/patients".to_owned(), format!("\"patient\":{PATIENTS}")),
            70..80 => get(screenings, belongs),
            80..92 => post(notes, "slept well, no fever"),
            _ => post(screenings, "pulse 60, pressure 120/80"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_asked_for_and_in_order() {
        let arrivals: Vec<_> = Plan::new(200, 1).take(20_000).map(|arrival| arrival.at).collect();
        assert!(arrivals.is_sorted());
        // 20 000 exponential gaps: a standard deviation of 0.7 % on their sum.
        let seconds = arrivals[arrivals.len() - 1].as_secs_f64();
        assert!((97.0..103.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn both_columns_get_the_same_plan() {
        assert!(Plan::new(50, 7).take(500).eq(Plan::new(50, 7).take(500)));
    }

    #[test]
    fn every_post_has_a_key_of_its_own_and_no_get_has_one() {
        let arrivals: Vec<_> = Plan::new(50, 7).take(2_000).collect();
        let posts: Vec<_> = arrivals.iter().filter(|arrival| arrival.method == Method::POST).collect();
        assert!((300..500).contains(&posts.len()), "{}", posts.len());
        let keys = posts.iter().map(|arrival| &arrival.post.as_ref().unwrap().idempotency_key);
        assert_eq!(keys.collect::<std::collections::HashSet<_>>().len(), posts.len());
        assert!(arrivals.iter().all(|arrival| arrival.post.is_some() == (arrival.method == Method::POST)));
    }
}
