//! What the demo's HOSP keeps in memory: notes, screenings, the answers it gave under a key, and how often each POST
//! was carried out.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The patients are numbered from 1 to this.
pub(super) const PATIENTS: u32 = 50;

/// What HOSP has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests that were answered, or should have been.
    pub(super) answers: u64,
    /// Those of them that failed.
    pub(super) failed: u64,
    /// POSTs carried out, each time counted.
    pub(super) executed: u64,
    /// POSTs carried out although one with the same key in its body had been.
    pub(super) duplicates: u64,
    /// POSTs known by their `Idempotency-Key` and answered from memory.
    pub(super) replayed: u64,
    /// POSTs carried out for the first time whose answer then failed.
    pub(super) executed_then_failed: u64,
}

/// The body of a POST.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Entry {
    /// Unique to the user's intent. It is not the `Idempotency-Key`: HOSP counts by this one and refuses to repeat by
    /// the other, so that a proxy which loses the header cannot go unnoticed.
    pub(super) key: String,
    /// What is noted.
    pub(super) text: String,
}

/// Where an entry goes.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Shelf {
    /// A patient's notes.
    Notes,
    /// A patient's screenings.
    Screenings,
}

/// HOSP's memory. Everything in it is bounded, since `--hold` may run for days.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: HashMap<(Shelf, u32), VecDeque<String>>,
    answers: Recent<Bytes>,
    executions: Recent<u64>,
    /// What was counted so far.
    pub(super) counts: Counts,
}

impl Ledger {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            answers: Recent::new(),
            executions: Recent::new(),
            counts: Counts::default(),
        }
    }

    /// What stands on a patient's place, as JSON.
    pub(super) fn list(&self, place: Shelf, patient: u32) -> serde_json::Value {
        let entries = self.entries.get(&(place, patient));
        serde_json::json!({ "patient": patient, "entries": entries })
    }

    /// Carries a POST out and gives its answer, or gives the answer of the one that had the same idempotency key.
    pub(super) fn post(
        &mut self,
        place: Shelf,
        patient: u32,
        entry: Entry,
        idempotency_key: Option<&str>,
    ) -> (Bytes, Execution) {
        if let Some(answer) = idempotency_key.and_then(|key| self.answers.find(key)) {
            self.counts.replayed += 1;
            return (answer.clone(), Execution::Replayed);
        }
        let times = self.executions.entry(&entry.key);
        *times += 1;
        let execution = if *times == 1 { Execution::First } else { Execution::Again };
        self.counts.executed += 1;
        self.counts.duplicates += u64::from(execution == Execution::Again);

        let answer = serde_json::json!({ "patient": patient, "key": entry.key }).to_string();
        let answer = Bytes::from(answer);
        let entries = self.entries.entry((place, patient)).or_default();
        if entries.len() == ENTRIES_KEPT {
            entries.pop_front();
        }
        entries.push_back(entry.text);
        if let Some(key) = idempotency_key {
            *self.answers.entry(key) = answer.clone();
        }
        (answer, execution)
    }
}

/// How a POST came to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Execution {
    /// Carried out although it had been.
    Again,
    /// Carried out.
    First,
    /// Its idempotency key was known, and nothing was done.
    Replayed,
}

/// A map that forgets its oldest key when it is full.
#[derive(Debug)]
struct Recent<V> {
    values: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V: Default> Recent<V> {
    fn new() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new() }
    }

    fn find(&self, key: &str) -> Option<&V> {
        self.values.get(key)
    }

    fn entry(&mut self, key: &str) -> &mut V {
        if !self.values.contains_key(key) {
            if self.order.len() == KEYS_KEPT
                && let Some(oldest) = self.order.pop_front()
            {
                self.values.remove(&oldest);
            }
            self.order.push_back(key.to_owned());
        }
        self.values.entry(key.to_owned()).or_default()
    }
}

/// Small, so that the answers to a GET stay small.
const ENTRIES_KEPT: usize = 5;
/// At 200 requests/s, 40 minutes of POSTs; two tries of one lie seconds apart.
const KEYS_KEPT: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> Entry {
        Entry { key: key.to_owned(), text: "pulse 60".to_owned() }
    }

    #[test]
    fn a_key_executed_twice_is_a_duplicate() {
        let mut ledger = Ledger::new();
        let (_, first) = ledger.post(Shelf::Notes, 1, entry("a"), None);
        let (_, second) = ledger.post(Shelf::Notes, 1, entry("a"), None);
        let (_, other) = ledger.post(Shelf::Notes, 1, entry("b"), None);
        assert_eq!([first, second, other], [Execution::First, Execution::Again, Execution::First]);
        assert_eq!(ledger.counts, Counts { executed: 3, duplicates: 1, ..Counts::default() });
    }

    #[test]
    fn an_idempotency_key_seen_before_gives_the_same_answer_and_does_nothing() {
        let mut ledger = Ledger::new();
        let (first, _) = ledger.post(Shelf::Screenings, 7, entry("a"), Some("k"));
        let (second, execution) = ledger.post(Shelf::Screenings, 7, entry("a"), Some("k"));
        assert_eq!((first, Execution::Replayed), (second, execution));
        assert_eq!(ledger.counts, Counts { executed: 1, replayed: 1, ..Counts::default() });
        assert_eq!(ledger.list(Shelf::Screenings, 7)["entries"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_proxy_that_loses_the_idempotency_key_is_found_out() {
        let mut ledger = Ledger::new();
        ledger.post(Shelf::Notes, 1, entry("a"), Some("k"));
        ledger.post(Shelf::Notes, 1, entry("a"), None);
        assert_eq!(ledger.counts.duplicates, 1);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut recent = Recent::<u64>::new();
        for number in 0..=KEYS_KEPT {
            *recent.entry(&number.to_string()) = 1;
        }
        assert_eq!(recent.values.len(), KEYS_KEPT);
        assert_eq!((recent.find("0"), recent.find("1")), (None, Some(&1)));
        let mut ledger = Ledger::new();
        for number in 0..100 {
            ledger.post(Shelf::Notes, 1, entry(&number.to_string()), None);
        }
        assert_eq!(ledger.list(Shelf::Notes, 1)["entries"].as_array().unwrap().len(), ENTRIES_KEPT);
    }
}
