//! Looks after the files of a listener's certificates. A pair that changes is read, checked and put in force whole; a
//! bad one leaves the old one there.
//!
//! The files are asked for their metadata at intervals, through symbolic links: what renews certificates exchanges
//! links as often as files, and a watch on a directory misses the former.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::certificate::{self, Certificate, CertificateFiles};
use crate::downstream::tls::Tls;

/// What tells whether files have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([Option<FileState>; 3]);

impl Fingerprint {
    pub(super) fn of(files: &CertificateFiles) -> Self {
        let passphrase = files.passphrase_file.as_deref();
        Self([FileState::of(&files.chain), FileState::of(&files.key), passphrase.and_then(FileState::of)])
    }
}

#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    place: (u64, u64),
    length: u64,
    modified: (i64, i64),
    /// Permissions too: a file that may be read now is as good as a new one.
    changed: (i64, i64),
}

#[cfg(unix)]
impl FileState {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            place: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(not(unix))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    length: u64,
    modified: Option<SystemTime>,
}

#[cfg(not(unix))]
impl FileState {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { length: metadata.len(), modified: metadata.modified().ok() })
    }
}

/// Looks at the files at intervals until nobody needs them any more.
pub(super) async fn run(tls: Weak<Tls>) {
    let Some(interval) = tls.upgrade().map(|tls| tls.settings.watch_interval) else { return };
    let mut watched = None;
    loop {
        sleep(interval).await;
        let Some(tls) = tls.upgrade() else { return };
        let mut current = watched.take().unwrap_or_else(|| Watched::all(&tls));
        // Reading may take its time, and so may decrypting a key.
        let looked = spawn_blocking(move || {
            for (index, watched) in current.iter_mut().enumerate() {
                watched.look(&tls, index);
            }
            current
        });
        match looked.await {
            Ok(current) => watched = Some(current),
            Err(error) => tracing::error!(%error, "the watch over certificates broke, and begins anew"),
        }
    }
}

/// A certificate's files as they were last seen.
#[derive(Debug)]
struct Watched {
    seen: Fingerprint,
    freshness: Freshness,
    /// What is wrong with them, if something is.
    trouble: Option<String>,
    looks: u32,
}

/// Whether the files may have changed since they were read without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// They changed shortly before they were read. A clock that ticks some hundred times a second gives two writes the
    /// same time, and the second may have been missed.
    Fresh,
    /// They have been read after the last change was long over.
    Settled,
}

impl Watched {
    fn all(tls: &Tls) -> Vec<Self> {
        let new = |seen: &Fingerprint| Self {
            seen: seen.clone(),
            freshness: Freshness::Settled,
            trouble: None,
            looks: 0,
        };
        tls.fingerprints.iter().map(new).collect()
    }

    fn look(&mut self, tls: &Tls, index: usize) {
        let listed = &tls.settings.certificates[index];
        let now = Fingerprint::of(&listed.files);
        let has_changed = now != self.seen;
        self.looks = self.looks.wrapping_add(1);
        // A certificate may be bad only because its time has not come, and then no file will change.
        let is_retry = self.trouble.is_some() && self.looks.is_multiple_of(RETRY_LOOKS);
        if !has_changed && self.freshness == Freshness::Settled && !is_retry {
            return;
        }
        self.freshness = if has_changed { Freshness::Fresh } else { Freshness::Settled };
        self.seen = now;
        match certificate::load(&listed.files, SystemTime::now()) {
            Ok(certificate) => {
                self.trouble = None;
                put_in_force(tls, index, certificate);
            }
            Err(error) => {
                tls.metrics.not_loaded(index);
                let trouble = error.to_string();
                if has_changed || self.trouble.as_deref() != Some(&*trouble) {
                    let help = error.help();
                    tracing::warn!(
                        certificate = %listed.label, %error, help, "certificate not exchanged, the old one stays"
                    );
                }
                self.trouble = Some(trouble);
            }
        }
    }
}

fn put_in_force(tls: &Tls, index: usize, certificate: Certificate) {
    let facts = certificate.facts.clone();
    tls.metrics.loaded(index, facts.not_after);
    let current = tls.certificates.load();
    let is_same = current
        .certificates()
        .get(index)
        .is_some_and(|old| old.certified_key.cert == certificate.certified_key.cert);
    if is_same {
        return;
    }
    for warning in &certificate.warnings {
        tracing::warn!("{warning}");
    }
    // Only this task exchanges them, one after the other.
    tls.certificates.store(Arc::new(current.with(index, certificate)));
    let label = &tls.settings.certificates[index].label;
    tracing::info!(certificate = %label, subject = facts.subject, not_after = facts.not_after, "certificate exchanged");
}

/// After how many looks files that did not change are read again, if they were bad.
const RETRY_LOOKS: u32 = 60;
