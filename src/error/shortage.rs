//! What this machine can run out of, told by the operating system's error.

use std::io;

/// What this machine, or the limits of this process, have run out of. It says nothing about any peer.
///
/// `EPERM` and `EACCES` are not among them: a firewall rule or a security module forbids the way to one address, for as
/// long as the rule stands. Another endpoint may be allowed, so such an endpoint has to leave balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// File descriptors, of this process (`EMFILE`) or of the machine (`ENFILE`).
    Files,
    /// Memory of the kernel (`ENOBUFS`, `ENOMEM`).
    Memory,
    /// Local ports or routes (`EADDRNOTAVAIL`, `EADDRINUSE`, `EAGAIN`; connect(2)).
    ///
    /// `EADDRNOTAVAIL` has a second meaning, which the error does not tell: this machine has no address of the endpoint's
    /// family. `upstream::connect` asks the system which it is.
    Ports,
}

impl Shortage {
    /// The shortage that `error` reports, if it reports one.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            EMFILE | ENFILE => Some(Self::Files),
            ENOBUFS | ENOMEM => Some(Self::Memory),
            EAGAIN | EADDRINUSE | EADDRNOTAVAIL => Some(Self::Ports),
            _ => None,
        }
    }

    /// The error of a process that has no descriptor left (`EMFILE`).
    pub fn of_files() -> io::Error {
        io::Error::from_raw_os_error(EMFILE)
    }

    /// Whether closing an idle connection helps. A port does not come free by it: it waits for a minute (`TIME-WAIT`).
    pub fn is_eased_by_closing(self) -> bool {
        matches!(self, Self::Files | Self::Memory)
    }
}

// Linux numbers; the standard library has no names for most of these errors.
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;
