//! `[[listener]]` and the tables in it, but for TLS.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use toml::Spanned;

use crate::config::bounds::{WAIT, m, s};
use crate::config::build::Build;
use crate::config::kinds::fields::{guard_header, vouching_header};
use crate::config::kinds::places::{file, network, socket_address};
use crate::config::kinds::{Kind, boolean, duration, integer, label, list_of, placed, size, unplaced, word};
use crate::config::listener_tls::{self, ListenerTls};
use crate::config::reader::Field;
use crate::config::report::{Fault, Faults};
use crate::config::secrets;
use crate::config::settings::settings;
use crate::config::spec::{Must, Or};
use crate::config::tables::{optional, table};
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::downstream::settings::Http2Settings;
use crate::downstream::settings::ListenerSettings;
use crate::downstream::tls::Protocol;
use crate::fields::Underscores;
use crate::fields::guard;

settings! {
    /// `[[listener]]`
    Listener: fields of ListenerSettings {
        /// Where the listener listens.
        address: Must<SocketAddr> = socket_address().must(r#""0.0.0.0:8080""#);
        /// Proxies whose X-Forwarded-For, -Proto and -Port fields are believed, such as "10.0.0.0/16".
        trusted_proxies: Or<Vec<IpNet>> = list_of(network()).or(Vec::new());
        /// Other fields that trusted proxies set or remove themselves, such as "X-Amzn-Oidc-Identity".
        trusted_headers: Or<Vec<HeaderName>> = list_of(vouching_header()).or(Vec::new());
        /// How long a connection may stay open without a request. Set it longer than the load balancer's own.
        idle_timeout: Or<Duration> = duration(WAIT).or(s(75));
        /// From the first byte of a request to the end of its head.
        header_timeout: Or<Duration> = duration(WAIT).or(s(10));
        /// The longest silence inside a request body. Shorter ones add up while a body comes slower than 500 bytes/s.
        body_timeout: Or<Duration> = duration(WAIT).or(s(30));
        /// How long a caller may take nothing of its answer.
        write_timeout: Or<Duration> = duration(WAIT).or(m(1));
        /// The largest request head.
        max_header_bytes: Or<usize> = size(HEAD).or(64 << 10);
        /// Open connections. Beyond them, an idle connection closes for each new one, or the new one waits.
        max_connections: Or<usize> = integer(1..=1_000_000).or(10_000);
        /// What to do about header names with `_`, which some backends read as `-`; "refuse" answers 400.
        underscores: Or<Underscores> =
            label(Underscores::ALL, Underscores::label).or(Underscores::default());
        /// "required": each connection begins with a PROXY header (version 1 or 2), within `header_timeout`.
        proxy_protocol: Or<ProxyProtocol> =
            word([("off", ProxyProtocol::Off), ("required", ProxyProtocol::Required)]).or(ProxyProtocol::Off);
        /// Whether answers carry Proxy-Status (RFC 9209), which tells outsiders about our inside.
        emit_proxy_status: Or<bool> = boolean().or(false);
        /// A secret that every request must carry; anything without it gets 403. Absent: no guard.
        origin_guard: Field<OriginGuard> = optional();
        /// HTTP/2: after TLS has agreed on it, and on plain ports for callers that begin with it.
        http2: Http2 = table();
        /// TLS. Absent: plain HTTP.
        tls: Field<ListenerTls> = optional();
    }
}

settings! {
    /// `[listener.http2]`
    Http2: all of Http2Settings {
        /// `false`: HTTP/1.1 only.
        enabled: Or<bool> = boolean().or(true);
        /// Requests at once on a connection, announced and enforced.
        max_streams: Or<u32> = integer(1..=10_000).or(100);
        /// Requests that a caller may cancel unanswered, beyond the number that it lets be answered.
        max_cancelled: Or<u32> = integer(1..=1_000_000).or(200);
        /// Request body that may be under way, per stream.
        stream_window: Or<u32> = size(WINDOW).or(64 << 10);
        /// Request body that may be under way on all streams of a connection; at least `stream_window`.
        connection_window: Or<u32> = size(WINDOW).or(1 << 20);
        /// Answer that waits for the caller, per stream.
        send_buffer: Or<u32> = size(16 << 10..=16 << 20).or(64 << 10);
    }
}

settings! {
    /// `[listener.origin_guard]` and `[route.origin_guard]`
    OriginGuard: fields of guard::OriginGuard {
        /// The field that must hold a secret, exactly once. It goes no further.
        header: Must<HeaderName> = guard_header().must(r#""X-Origin-Secret""#) => |guard| guard.header().clone();
        /// 1 to 16 files, each with one secret of 16 bytes or more; read again on SIGHUP.
        secret_files: Must<Vec<Spanned<PathBuf>>> =
            placed(file()).must(r#"["/etc/stent/origin-secret"]"#) => |guard| unplaced(guard.files().cloned());
    }
}

/// hyper takes no less than 8 KiB for a head, and beyond 1 MiB a head is an attack.
pub(in crate::config) const HEAD: RangeInclusive<u64> = 8 << 10..=1 << 20;

/// A window is never smaller than RFC 9113 has it at first, nor larger than memory for a stream or two should be.
const WINDOW: RangeInclusive<u64> = 64 << 10..=64 << 20;

/// The listeners, each of which knows what none of them may let a caller say.
pub(in crate::config) fn build(listeners: &[Spanned<Listener>], build: &Build<'_>) -> Vec<ListenerSettings> {
    let mut settings: Vec<_> =
        listeners.iter().filter_map(|listener| listener.get_ref().build(build)).collect();
    let client_auths = settings.iter().filter_map(|listener| listener.tls.as_ref()?.client_auth.as_ref());
    let mut headers: Vec<_> = client_auths.filter_map(|auth| auth.subject_header.clone()).collect();
    headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    headers.dedup();
    for listener in &mut settings {
        listener.subject_headers.clone_from(&headers);
    }
    settings
}

impl Listener {
    fn build(&self, build: &Build<'_>) -> Option<ListenerSettings> {
        let address = self.address.value(build.faults);
        let http2 = self.http2.checked();
        self.http2.check_windows(&http2, build.faults);
        let protocols =
            if http2.enabled { vec![Protocol::Http2, Protocol::Http1] } else { vec![Protocol::Http1] };
        let tls = self.tls.given().map(|tls| listener_tls::build(tls, protocols, build));
        let origin_guard = self.origin_guard.given().and_then(|guard| guard.get_ref().build(build));
        Some(ListenerSettings {
            address: address?.into_inner(),
            trusted_proxies: self.trusted_proxies.value(),
            trusted_headers: self.trusted_headers.value(),
            idle_timeout: self.idle_timeout.value(),
            header_timeout: self.header_timeout.value(),
            body_timeout: self.body_timeout.value(),
            write_timeout: self.write_timeout.value(),
            max_header_bytes: self.max_header_bytes.value(),
            max_connections: self.max_connections.value(),
            underscores: self.underscores.value(),
            subject_headers: Vec::new(), // all listeners have to be known first
            origin_guard,
            emit_proxy_status: self.emit_proxy_status.value(),
            tls,
            proxy_protocol: self.proxy_protocol.value(),
            http2,
        })
    }
}

impl Http2 {
    fn check_windows(&self, checked: &Http2Settings, faults: &Faults) {
        if checked.stream_window <= checked.connection_window {
            return;
        }
        let message = "a stream's window is larger than its connection's";
        let mut places = [self.stream_window.span(), self.connection_window.span()].into_iter().flatten();
        if let Some(place) = places.next() {
            let fault = Fault::at(place, message, "no stream can use more than `connection_window`");
            let fault = places.next().into_iter().fold(fault, |fault, place| fault.also(place, "this one"));
            faults.push(fault.help("raise `connection_window`, or lower `stream_window`"));
        }
    }
}

impl OriginGuard {
    /// The guard with its secrets, which are read here.
    pub(in crate::config) fn build(&self, build: &Build<'_>) -> Option<guard::OriginGuard> {
        let header = self.header.value(build.faults);
        let files = self.secret_files.value(build.faults)?;
        let span = files.span();
        let secrets = secrets::read(files.into_inner(), build.directory, build.faults)?;
        let guard = guard::OriginGuard::new(header?.into_inner(), secrets);
        guard
            .map_err(|error| {
                let fault = Fault::at(span, error.to_string(), "none or too many");
                build.faults.push(fault.help("one secret, and during a rotation the next one beside it"));
            })
            .ok()
    }
}
