//! Where lines are written to, and what becomes of them when that fails.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::FileKind;

/// An open output. A failed write loses its lines, never the process.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    /// Where to open the file anew; none for standard output.
    path: Option<PathBuf>,
    /// Whether the last line written lacks its end, because a write failed inside it.
    torn: bool,
    complaints: Complaints,
}

impl Destination {
    /// A file, made if need be, to which lines are appended.
    ///
    /// What is no file is opened only if that cannot wait: one of the process's own standard streams, an unnamed pipe or
    /// a device such as `/dev/null`.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Some(path.to_owned()), ..Self::new(open(path)?) })
    }

    /// Standard output. The descriptor is duplicated, because the standard library's handle keeps a buffer of
    /// its own, in which lines that failed would stay, and passes over a closed descriptor in silence.
    pub(super) fn stdout() -> io::Result<Self> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(File::from(descriptor)))
    }

    pub(super) fn new(file: File) -> Self {
        Self { file, path: None, torn: false, complaints: Complaints::default() }
    }

    /// Opens the file anew, or keeps the old one and logs why.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                // The same file may have been opened again; an empty one has no torn line.
                self.torn &= file.metadata().is_ok_and(|metadata| metadata.len() > 0);
                self.file = file;
            }
            Err(error) => {
                let path = path.display();
                tracing::error!(%path, %error, "the access log cannot be opened anew; the old file stays in use");
            }
        }
    }

    /// Writes whole lines; gives the number of those that are lost.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        match write_lines(&mut self.file, lines, &mut self.torn) {
            Ok(()) => 0,
            Err(Lost { lines, error }) => {
                if let Some(lost) = self.complaints.due(lines, Instant::now()) {
                    tracing::error!(lost, %error, "the access log cannot be written");
                }
                lines
            }
        }
    }
}

/// Patients' identifiers stand in paths, so that others may not read the file.
fn open(path: &Path) -> io::Result<File> {
    match FileKind::of(path) {
        // It may be made, or is opened in vain at once.
        Ok(FileKind::Regular) | Err(_) => {}
        Ok(kind) => match own_stream(path) {
            // Not opened but shared: it is open, whatever it is.
            Some(stream) => return Ok(stream),
            None if matches!(kind, FileKind::UnnamedPipe | FileKind::MemoryDevice) => {}
            None => return Err(kind.refusal()),
        },
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Standard output or standard error, if the path leads to what one of them writes to, as `/dev/stdout` does.
fn own_stream(path: &Path) -> Option<File> {
    let wanted = fs::metadata(path).ok()?;
    let streams = [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
    streams.into_iter().flatten().map(File::from).find(|stream| {
        let is_same = |found: Metadata| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino());
        stream.metadata().is_ok_and(is_same)
    })
}

/// What a write that failed lost.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) lines: u64,
    error: io::Error,
}

/// Writes whole lines. `torn` is whether the last line written lacks its end; the next write then begins with a line end.
pub(crate) fn write_lines(output: &mut impl Write, lines: &[u8], torn: &mut bool) -> Result<(), Lost> {
    if *torn && !lines.is_empty() {
        // What is left of the line that failed must not spoil the next one too.
        output.write_all(b"\n").map_err(|error| Lost { lines: count(lines), error })?;
        *torn = false;
    }
    let mut rest = lines;
    while !rest.is_empty() {
        let error = match output.write(rest) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                *torn = rest[written - 1] != b'\n';
                rest = &rest[written..];
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err(Lost { lines: count(rest), error });
    }
    Ok(())
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Keeps a full disk from filling the program's log too.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
    unreported: u64,
}

impl Complaints {
    /// Adds lost lines; gives all that were not yet reported once a report is due.
    fn due(&mut self, lost: u64, now: Instant) -> Option<u64> {
        self.unreported += lost;
        if self.last.is_some_and(|last| now.duration_since(last) < BETWEEN_COMPLAINTS) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

const BETWEEN_COMPLAINTS: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with `room` bytes left, at most `step` of them per call.
    struct Disk {
        content: Vec<u8>,
        room: usize,
        step: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room).min(self.step);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.content.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_that_fails_inside_a_line_loses_that_line_and_those_after_it() {
        let mut disk = Disk { content: Vec::new(), room: 6, step: 4 };
        let mut torn = false;
        let lost = write_lines(&mut disk, b"one\ntwo\nsix\n", &mut torn).unwrap_err();
        assert_eq!((lost.lines, torn), (2, true));
        assert_eq!(disk.content, b"one\ntw");
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next_is_written() {
        let mut disk = Disk { content: b"tw".to_vec(), room: 0, step: 4 };
        let mut torn = true;
        let lost = write_lines(&mut disk, b"six\n", &mut torn).unwrap_err();
        assert_eq!((lost.lines, torn), (1, true));
        disk.room = 100;
        write_lines(&mut disk, b"ten\n", &mut torn).unwrap();
        assert_eq!(disk.content, b"tw\nten\n");
        assert!(!torn);
    }

    #[test]
    fn a_write_that_fails_between_lines_tears_none() {
        let mut disk = Disk { content: Vec::new(), room: 4, step: 4 };
        let mut torn = false;
        let lost = write_lines(&mut disk, b"one\ntwo\n", &mut torn).unwrap_err();
        assert_eq!((lost.lines, torn), (1, false));
    }

    #[test]
    fn lost_lines_are_reported_at_most_once_a_minute_and_none_is_left_out() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.due(3, start), Some(3));
        assert_eq!(complaints.due(4, start + Duration::from_secs(1)), None);
        assert_eq!(complaints.due(5, start + Duration::from_secs(59)), None);
        assert_eq!(complaints.due(6, start + Duration::from_mins(1)), Some(15));
    }
}
