//! What a path leads to, found out without opening it: to open a pipe or a device may wait for ever.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What a path leads to, through symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file.
    Regular,
    /// A pipe that some process has open, such as `/dev/fd/63` from a shell's `<(…)`. To open it does not wait.
    UnnamedPipe,
    /// A pipe with a name of its own. To open it waits for its other side.
    NamedPipe,
    /// A device of the kernel's memory driver, such as `/dev/null`. To open it or to write to it does not wait.
    MemoryDevice,
    /// Another device, such as a terminal.
    Device,
    /// A directory.
    Directory,
    /// A socket.
    Socket,
}

impl FileKind {
    /// Fails if there is nothing at `path`, or nothing that this user may see.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let kind = metadata.file_type();
        Ok(match kind {
            _ if kind.is_file() => Self::Regular,
            _ if kind.is_dir() => Self::Directory,
            _ if kind.is_socket() => Self::Socket,
            _ if kind.is_fifo() => {
                if is_unnamed(path) {
                    Self::UnnamedPipe
                } else {
                    Self::NamedPipe
                }
            }
            _ if is_memory_device(kind, &metadata) => Self::MemoryDevice,
            _ => Self::Device,
        })
    }

    /// Why it is not taken where a regular file is needed.
    pub fn refusal(self) -> io::Error {
        let what = match self {
            Self::Regular => "a file",
            Self::UnnamedPipe => "a pipe",
            Self::NamedPipe => "a named pipe",
            Self::MemoryDevice | Self::Device => "a device",
            Self::Directory => "a directory",
            Self::Socket => "a socket",
        };
        io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a file"))
    }
}

/// Whether the links from `path` end at one of `/proc`, whose target is no path.
fn is_unnamed(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs::read_link(&path) else { return false };
        if target.as_os_str().as_encoded_bytes().starts_with(b"pipe:[") {
            return true;
        }
        path.pop();
        path.push(target);
    }
    false
}

fn is_memory_device(kind: FileType, metadata: &Metadata) -> bool {
    kind.is_char_device() && metadata.rdev() >> 8 == MEMORY_MAJOR
}

/// How many links the kernel follows.
const LINKS: usize = 40;

/// The major number of Linux's `/dev/null`, `/dev/zero` and `/dev/full`.
const MEMORY_MAJOR: u64 = 1;
