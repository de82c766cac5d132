//! Kinds of values that say where something is: addresses, networks, endpoints, hosts, paths, files.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::Method;
use http::uri::{Authority, PathAndQuery};
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::config::effective::quote;
use crate::config::kinds::{Custom, TEXT};
use crate::config::reader::Item;
use crate::config::report::Fault;
use crate::record::log::AccessLogOutput;
use crate::route::redirect::RedirectHost;
use crate::route::{HostPattern, InvalidPattern, PathPattern};
use crate::upstream::location::{EndpointHost, EndpointUrl, InvalidEndpoint};

/// Where the access log goes.
pub(in crate::config) fn log_output() -> Custom<AccessLogOutput> {
    Custom { name: "output", types: TEXT, read: read_log_output, show: show_log_output }
}

fn read_log_output(item: &Item<'_>) -> Result<AccessLogOutput, Fault> {
    match item.text()? {
        "off" => Ok(AccessLogOutput::Off),
        "stdout" => Ok(AccessLogOutput::Stdout),
        // A bare word is more likely a slip than a file beside wherever the process happens to run.
        word if !word.contains(['/', '.']) => {
            let help = format!("\"stdout\", \"off\" or a path; for a file of that name write \"./{word}\"");
            Err(item.invalid("neither a known output nor a path", &help))
        }
        path if path.contains('\0') || path.ends_with('/') => {
            Err(item.invalid("not a file", "give the path of a file, such as \"/var/log/stent/access.log\""))
        }
        path => Ok(AccessLogOutput::File(PathBuf::from(path))),
    }
}

fn show_log_output(output: &AccessLogOutput) -> String {
    match output {
        AccessLogOutput::File(path) => show_path(path),
        AccessLogOutput::Off => quote("off"),
        AccessLogOutput::Stdout => quote("stdout"),
    }
}

/// An IP address of this machine and a port.
pub(in crate::config) fn socket_address() -> Custom<SocketAddr> {
    Custom {
        name: "IP:PORT",
        types: TEXT,
        read: read_socket_address,
        show: |address| quote(&address.to_string()),
    }
}

fn read_socket_address(item: &Item<'_>) -> Result<SocketAddr, Fault> {
    let text = item.text()?;
    text.parse().map_err(|_| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let (label, help) = if text.starts_with("http") || text.contains('/') {
            ("not an address", "an address has no scheme and no path: \"0.0.0.0:8080\"".to_owned())
        } else if text.parse::<IpAddr>().is_ok() {
            let shown = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
            ("the port is missing", format!("write \"{shown}:8080\""))
        } else if host.is_empty() {
            ("the IP address is missing", format!("for all interfaces write \"0.0.0.0:{port}\""))
        } else if host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':') {
            let port = if port.is_empty() { "8080" } else { port };
            let help = if host == "localhost" {
                format!("write \"127.0.0.1:{port}\"")
            } else {
                format!("a listener takes an IP address of this machine: \"0.0.0.0:{port}\" for all of them")
            };
            ("a host name", help)
        } else {
            ("not IP:PORT", "write it like \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned())
        };
        item.invalid(label, &help)
    })
}

/// An address or a network.
pub(in crate::config) fn network() -> Custom<IpNet> {
    Custom {
        name: "address or network",
        types: TEXT,
        read: read_network,
        show: |network| quote(&network.to_string()),
    }
}

fn read_network(item: &Item<'_>) -> Result<IpNet, Fault> {
    let text = item.text()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let help = "an address or a network, such as \"10.0.0.7\" or \"10.0.0.0/16\"";
    let network: IpNet = text.parse().map_err(|_| item.invalid("neither an address nor a network", help))?;
    if network != network.trunc() {
        // Which of the two was meant, the one host or its whole network, decides whom we believe.
        let help = format!(
            "write \"{}\" for the network, or \"{}\" for the one address",
            network.trunc(),
            network.addr()
        );
        return Err(item.invalid("an address inside the network, not the network", &help));
    }
    Ok(network)
}

/// A pseudonym for `Via`: a token (RFC 9110 section 7.6.3).
pub(in crate::config) fn via() -> Custom<Box<str>> {
    Custom { name: "token of up to 64 bytes", types: TEXT, read: read_via, show: |via| quote(via) }
}

fn read_via(item: &Item<'_>) -> Result<Box<str>, Fault> {
    let text = item.text()?;
    // A method is the same production, `token`, and http already checks it.
    if text.len() > 64 || Method::from_bytes(text.as_bytes()).is_err() {
        return Err(item.invalid(
            "not a token of at most 64 bytes",
            "letters, digits, `-`, `.` and `_`, without spaces: \"stent\"",
        ));
    }
    Ok(text.into())
}

/// The URL of an endpoint.
pub(in crate::config) fn endpoint() -> Custom<EndpointUrl> {
    Custom { name: "URL without a path", types: TEXT, read: read_endpoint, show: show_endpoint }
}

fn read_endpoint(item: &Item<'_>) -> Result<EndpointUrl, Fault> {
    let text = item.text()?;
    EndpointUrl::parse(text).map_err(|error| {
        let help = match error {
            InvalidEndpoint::Scheme if !text.contains("://") => format!("write \"http://{text}\""),
            InvalidEndpoint::Extra => "leave only `http://HOST:PORT`".to_owned(),
            _ => "write it like \"http://10.0.1.10:8080\" or \"http://hosp.internal:8080\"".to_owned(),
        };
        item.invalid(&error.to_string(), &help)
    })
}

fn show_endpoint(endpoint: &EndpointUrl) -> String {
    let (scheme, port) = (endpoint.scheme.label(), endpoint.port);
    quote(&match &endpoint.host {
        EndpointHost::Address(IpAddr::V6(address)) => format!("{scheme}://[{address}]:{port}"),
        EndpointHost::Address(address) => format!("{scheme}://{address}:{port}"),
        EndpointHost::Name(name) => format!("{scheme}://{name}:{port}"),
    })
}

/// The host of a route.
pub(in crate::config) fn host() -> Custom<HostPattern> {
    Custom { name: "host name", types: TEXT, read: read_host, show: |host| quote(&show_host(host)) }
}

fn read_host(item: &Item<'_>) -> Result<HostPattern, Fault> {
    HostPattern::parse(item.text()?).map_err(|error| pattern(item, error))
}

/// The path of a route.
pub(in crate::config) fn path() -> Custom<PathPattern> {
    Custom { name: "path", types: TEXT, read: read_path, show: |path| quote(path.as_str()) }
}

fn read_path(item: &Item<'_>) -> Result<PathPattern, Fault> {
    PathPattern::parse(item.text()?).map_err(|error| pattern(item, error))
}

fn pattern(item: &Item<'_>, error: InvalidPattern) -> Fault {
    let help = match error {
        InvalidPattern::Host => "a name without scheme, port or path: \"hosp.example.org\"",
        InvalidPattern::PathStart | InvalidPattern::Segment => "write it like \"/api/screenings/{id}\"",
        InvalidPattern::Rest => "for everything below /api write \"/api/*\"",
        InvalidPattern::Character => "write a space as `%20`; a query takes no part in routing",
    };
    item.invalid(&error.to_string(), help)
}

/// Writes a host pattern as the configuration does.
pub(crate) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Where a redirect leads.
pub(in crate::config) fn redirect_host() -> Custom<RedirectHost> {
    Custom {
        name: "host name or address",
        types: TEXT,
        read: read_redirect_host,
        show: |host| quote(host.as_str()),
    }
}

fn read_redirect_host(item: &Item<'_>) -> Result<RedirectHost, Fault> {
    let text = item.text()?;
    RedirectHost::parse(text).map_err(|error| {
        let help = if text.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("in a URL an IPv6 address stands in brackets: \"[{text}]\"")
        } else if text.contains("//") {
            "a name alone: \"new.example.org\"; the scheme has a key of its own".to_owned()
        } else if text.contains(':') {
            "a name alone: \"new.example.org\"; the port has a key of its own".to_owned()
        } else {
            "a name or an address: \"new.example.org\"; path and query are kept as they came".to_owned()
        };
        item.invalid(&error.to_string(), &help)
    })
}

/// What a health check asks for.
pub(in crate::config) fn checked_path() -> Custom<PathAndQuery> {
    Custom { name: "path", types: TEXT, read: read_checked_path, show: |path| quote(path.as_str()) }
}

fn read_checked_path(item: &Item<'_>) -> Result<PathAndQuery, Fault> {
    let text = item.text()?;
    let help = match text {
        _ if text.contains("://") => {
            "a path alone, such as \"/healthz\": every endpoint is asked, and `host` has a key of its own"
        }
        _ if text.contains('#') => "leave out `#` and what follows it: a server is never sent that",
        _ => "write it like \"/healthz\" or \"/healthz?deep=1\"; a space as `%20`",
    };
    let is_plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let path = PathAndQuery::try_from(text).ok().filter(|_| is_plain);
    path.ok_or_else(|| item.invalid("not a path", help))
}

/// A host that a request of our own names.
pub(in crate::config) fn authority() -> Custom<Authority> {
    Custom {
        name: "host name or address",
        types: TEXT,
        read: read_authority,
        show: |host| quote(host.as_str()),
    }
}

fn read_authority(item: &Item<'_>) -> Result<Authority, Fault> {
    let text = item.text()?;
    let host = Authority::try_from(text).ok().filter(|_| !text.contains('@'));
    host.ok_or_else(|| {
        item.invalid(
            "not a host",
            "a name or an address, with a port if need be, and without a scheme: \"hosp.internal\"",
        )
    })
}

/// A name that a certificate holds for.
pub(in crate::config) fn tls_name() -> Custom<ServerName<'static>> {
    Custom { name: "host name or address", types: TEXT, read: read_tls_name, show: show_tls_name }
}

fn read_tls_name(item: &Item<'_>) -> Result<ServerName<'static>, Fault> {
    let text = item.text()?;
    ServerName::try_from(text.to_owned()).map_err(|_| {
        item.invalid(
            "neither a host name nor an IP address",
            "a name as the backend's certificate has it, without scheme and port: \"hosp.internal\"",
        )
    })
}

fn show_tls_name(name: &ServerName<'static>) -> String {
    quote(&match name {
        ServerName::IpAddress(address) => IpAddr::from(*address).to_string(),
        name => name.to_str().into_owned(),
    })
}

/// The path of a file.
pub(in crate::config) fn file() -> Custom<PathBuf> {
    Custom { name: "path", types: TEXT, read: read_file, show: |path| show_path(path) }
}

fn read_file(item: &Item<'_>) -> Result<PathBuf, Fault> {
    match item.text()? {
        path if path.is_empty() || path.contains('\0') || path.ends_with('/') => {
            Err(item.invalid("not a file", "give the path of a file"))
        }
        path => Ok(PathBuf::from(path)),
    }
}

/// The path of a file in PEM.
pub(in crate::config) fn pem_file() -> Custom<PathBuf> {
    Custom { name: "path", types: TEXT, read: read_pem_file, show: |path| show_path(path) }
}

fn read_pem_file(item: &Item<'_>) -> Result<PathBuf, Fault> {
    let text = item.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(item.invalid("not a path", "give the path of a file in PEM, such as \"tls/hosp.pem\""));
    }
    Ok(PathBuf::from(text))
}

fn show_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}
