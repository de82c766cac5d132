//! Where the text of a configuration comes from: a file, or a pipe within bounds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::files::FileKind;

/// Reads a regular file, or an unnamed pipe within [`PIPE_TIME`]. Nothing else is opened: a named pipe, a device or a
/// socket may wait for ever.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if FileKind::of(path)? != FileKind::UnnamedPipe {
        return read_file(path);
    }
    let (done, is_done) = mpsc::sync_channel(1);
    let pipe = path.to_owned();
    // The thread ends with the pipe's writer, or with the process.
    thread::Builder::new().name("config-pipe".into()).spawn(move || {
        // After the time is over, nobody takes it.
        let _ = done.send(read_bounded(&pipe));
    })?;
    is_done.recv_timeout(PIPE_TIME).unwrap_or_else(|_| {
        let reason = format!("the pipe has not ended within {} s", PIPE_TIME.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    })
}

/// Reads a regular file.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    match FileKind::of(path)? {
        FileKind::Regular => read_bounded(path),
        kind => Err(kind.refusal()),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
    }
    Ok(bytes)
}

/// How long a pipe may take from its opening to its end.
const PIPE_TIME: Duration = Duration::from_secs(5);

/// Some hundred thousand routes, in bytes.
const LARGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{self, Command};
    use std::{env, fs};

    use super::*;

    fn path_of(pipe: &impl AsRawFd) -> PathBuf {
        format!("/dev/fd/{}", pipe.as_raw_fd()).into()
    }

    #[test]
    fn an_unnamed_pipe_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = path_of(&reader);
        let reading = thread::spawn(move || read(&path));
        writer.write_all(b"[server]\n").unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), b"[server]\n");
    }

    #[test]
    fn a_pipe_that_does_not_end_is_given_up() {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(read(&path_of(&reader)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);
    }

    #[test]
    fn a_pipe_is_not_read_a_second_time() {
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(read_file(&path_of(&reader)).unwrap_err().to_string(), "it is a pipe, not a file");
    }

    #[test]
    fn what_may_wait_for_ever_is_refused_before_it_is_opened() {
        let folder = env::temp_dir().join(format!("stent-config-source-{}", process::id()));
        fs::create_dir(&folder).unwrap();
        let (fifo, socket) = (folder.join("fifo"), folder.join("socket"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, message) in [
            (fifo.as_path(), "it is a named pipe, not a file"),
            (&socket, "it is a socket, not a file"),
            (&folder, "it is a directory, not a file"),
            (Path::new("/dev/zero"), "it is a device, not a file"),
        ] {
            assert_eq!(read(path).unwrap_err().to_string(), message);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
