//! Which headers vouch for a caller, by those who are known to send them.

use proptest::prelude::*;

use super::*;

/// What CDNs, balancers, log-in proxies and frameworks send or read, by their own documentation.
const KNOWN: &[(&str, &str)] = &[
    ("RFC 7239", "Forwarded"),
    ("RFC 9440", "Client-Cert Client-Cert-Chain"),
    (
        "by custom",
        "X-Forwarded X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Forwarded-Port X-Forwarded-Server \
         X-Forwarded-By X-Forwarded-Scheme X-Forwarded-Ssl X-Forwarded-Proto-Version X-Forward-For Forwarded-For \
         Forwarded-For-Ip X-Real-IP X-Real-Port X-Client-IP Client-IP X-Cluster-Client-IP Cluster-Client-IP \
         X-Original-Forwarded-For X-Originating-IP X-Source-IP X-Remote-IP X-Remote-Addr Remote-Addr Proxy-Client-IP \
         WL-Proxy-Client-IP X-ProxyUser-IP X-True-IP X-User-IP X-Custom-IP-Authorization HTTP-Client-IP \
         HTTP-X-Forwarded-For X-Host X-Host-Override X-HTTP-Host-Override X-HTTP-DestinationURL X-Proxy-URL \
         X-Scheme X-Url-Scheme X-Proto X-HTTPS HTTPS Front-End-Https X-SSL X-Script-Name",
    ),
    (
        "Cloudflare",
        "CF-Connecting-IP CF-Connecting-IPv6 CF-Pseudo-IPv4 CF-IPCountry CF-Visitor True-Client-IP \
      CF-Access-Jwt-Assertion CF-Access-Authenticated-User-Email",
    ),
    (
        "CloudFront",
        "CloudFront-Viewer-Address CloudFront-Viewer-Country CloudFront-Forwarded-Proto CloudFront-Viewer-TLS",
    ),
    (
        "AWS",
        "X-Amzn-Oidc-Data X-Amzn-Oidc-Identity X-Amzn-Oidc-Accesstoken X-Amzn-Mtls-Clientcert \
      X-Amzn-Mtls-Clientcert-Subject X-Amzn-Tls-Version X-Amzn-Tls-Cipher-Suite X-Amzn-Lattice-Identity \
      X-Amzn-Source-Vpc X-Amzn-Request-Context X-Apigateway-Event",
    ),
    ("Fastly", "Fastly-Client-IP Fastly-SSL Fastly-FF"),
    ("Akamai", "True-Client-IP X-Akamai-Edgescape Akamai-Origin-Hop"),
    (
        "Google",
        "X-Goog-IAP-JWT-Assertion X-Goog-Authenticated-User-Email X-Goog-Authenticated-User-Id \
      X-AppEngine-User-IP X-AppEngine-Country X-Client-Cert-Present X-Client-Cert-Chain-Verified X-Client-Cert-SPIFFE \
      X-Endpoint-API-UserInfo X-Apigateway-Api-Userinfo",
    ),
    (
        "Azure",
        "X-Azure-ClientIP X-Azure-SocketIP X-ARR-ClientCert X-ARR-SSL X-MS-Client-Principal \
      X-MS-Client-Principal-Name X-MS-Token-AAD-Id-Token X-Original-Host DISGUISED-HOST WAS-DEFAULT-HOSTNAME",
    ),
    (
        "other networks",
        "Fly-Client-IP Fly-Forwarded-Port X-Vercel-Forwarded-For X-Vercel-IP-Country \
      X-NF-Client-Connection-IP DO-Connecting-IP Incap-Client-IP X-Sucuri-ClientIP Ali-CDN-Real-IP EO-Client-IP \
      EO-Connecting-IP CDN-Src-IP",
    ),
    (
        "NGINX and its ingress",
        "X-SSL-Client-Verify X-SSL-Client-S-DN X-SSL-Client-Cert X-Original-URI X-Original-Method \
      X-Original-URL SSL-Client-Verify SSL-Client-Subject-DN",
    ),
    ("HAProxy", "X-SSL X-SSL-Client-DN X-SSL-Client-SHA1 X-SSL-Issuer"),
    (
        "Envoy and Istio",
        "X-Forwarded-Client-Cert X-Envoy-External-Address X-Envoy-Original-Path X-Envoy-Original-Host \
      X-Envoy-Internal X-Envoy-Peer-Metadata",
    ),
    ("Linkerd", "l5d-client-id l5d-dst-override l5d-remote-ip"),
    (
        "Traefik",
        "X-Forwarded-Tls-Client-Cert X-Forwarded-Tls-Client-Cert-Info X-Forwarded-Prefix X-Replaced-Path \
      X-Forwarded-Uri X-Forwarded-Method",
    ),
    ("IIS", "X-Rewrite-URL X-Original-URL X-Forwarded-Ssl Front-End-Https"),
    (
        "F5 and others",
        "SSLClientCertStatus SSLClientCertSubject X-Client-Cert X-ClientCert X-Client-DN X-Client-Verify \
      X-TLS-Client-Cert X-MTLS-Subject",
    ),
    (
        "log-in proxies",
        "X-Auth-Request-User X-Auth-Request-Email X-Forwarded-User X-Forwarded-Email \
      X-Forwarded-Preferred-Username X-Forwarded-Access-Token X-Auth-User X-Auth-Username X-Auth-Email X-Auth-Roles \
      X-Authenticated-User X-Authenticated-Userid X-Consumer-Id X-Consumer-Username X-Credential-Identifier \
      X-Anonymous-Consumer X-Authentik-Username X-Pomerium-Jwt-Assertion X-JWT-Assertion X-WebAuth-User \
      Tailscale-User-Login Teleport-Jwt-Assertion Remote-User Remote-Groups Remote-Email X-Remote-User X-Remote-Group",
    ),
    (
        "single sign-on",
        "OIDC-Claim-Sub Shib-Session-ID CAS-User SM-User SM-UniversalId SMUSER IV-User IV-Groups IV-Creds \
      OAM-Remote-User Osso-User-Dn",
    ),
    ("WebSphere and WebLogic", "$WSRA $WSRU $WSSN $WSIS $WSCC WL-Proxy-SSL WL-Proxy-Client-Cert Proxy-SSL"),
    ("Rack", "X-Accel-Mapping X-Sendfile-Type"),
];

/// What callers send about anything else.
const OTHER: &str = "Host Accept Accept-Charset Accept-Encoding Accept-Language Accept-Patch Authorization Cache-Control \
    Connection Content-Disposition Content-Encoding Content-Length Content-MD5 Content-Type Cookie DNT Date Depth \
    Destination Device-Memory Downlink ETag Expect From Idempotency-Key If-Match If-Modified-Since If-None-Match \
    If-Range If-Unmodified-Since Keep-Alive Last-Event-ID Max-Forwards MIME-Version Origin Pragma Prefer Priority Range \
    Referer Save-Data Sec-CH-UA Sec-Fetch-Site Sec-WebSocket-Key SOAPAction TE Trailer Transfer-Encoding Translate \
    Traceparent Tracestate Upgrade Upgrade-Insecure-Requests User-Agent Via Warning X-Amz-Content-Sha256 X-Amz-Date \
    X-Amzn-Trace-Id X-Api-Key X-Auth-Token X-B3-TraceId X-Client-Data X-Client-Id X-Client-Name X-Client-Version \
    X-Cloud-Trace-Context X-Correlation-Id X-CSRF-Token X-Goog-Api-Key X-HTTP-Method-Override X-Ms-Client-Request-Id \
    X-Ms-Version X-Request-Id X-Requested-With X-Tenant X-User X-User-Id X-XSRF-Token X-Zip X-Skip Access-Control-Request-Method \
    CDN-Loop CSRF-Token Forward Clip Grpc-Timeout HTTP2-Settings Fetch SSE-Retry Remote Real";

#[test]
fn every_header_by_which_a_known_proxy_vouches_is_a_claim() {
    for (who, names) in KNOWN {
        for name in names.split_ascii_whitespace() {
            assert!(claim(&name.to_ascii_lowercase()).is_some(), "{who}: {name}");
        }
    }
}

#[test]
fn what_callers_say_about_anything_else_is_no_claim() {
    for name in OTHER.split_ascii_whitespace() {
        assert_eq!(claim(&name.to_ascii_lowercase()), None, "{name}");
    }
}

#[test]
fn families_stand_in_the_order_in_which_they_are_looked_for() {
    let is_ordered = |list: &[Family]| list.is_sorted_by_key(|family| family.text);
    assert!(is_ordered(&EXTENSIONS.list) && is_ordered(&OTHERS.list));
}

#[test]
fn a_header_that_nobody_has_listed_is_known_by_what_it_claims() {
    for (name, what) in [
        ("x-new-cdn-client-ip", Address),
        ("x-edge-clientip", Address),
        ("x-forwarded-anything", Address),
        ("x-ssl-something", Certificate),
        ("x-authenticated-anything", Identity),
        ("x-original-anything", Path),
        ("http-x-ssl-client-verify", Certificate),
    ] {
        assert_eq!(claim(name), Some(what), "{name}");
    }
}

proptest! {
    #[test]
    fn any_name_is_judged(name in "[a-z$~._-]{0,12}") {
        let _ = claim(&name);
    }
}
