//! Addresses as Envoy writes them: `10.0.0.7:10001`, `[2001:db8::1]:10001`, or the path of a pipe.

use std::net::IpAddr;

/// Whether an address, with its port or without, can be reached from this machine only. A pipe can.
pub fn is_loopback(address: &str) -> bool {
    address.starts_with(['/', '@']) || ip(address).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether a `Host` header names this machine and nothing else can: an address of its loopback, or `localhost`, which
/// browsers do not look up.
pub fn is_loopback_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if is_port(port) { name } else { host });
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || ip(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

fn ip(address: &str) -> Option<IpAddr> {
    let unbracketed = |text: &str| text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.parse().ok());
    let parse = |text: &str| text.parse().ok().or_else(|| unbracketed(text));
    parse(address).or_else(|| {
        let (host, port) = address.rsplit_once(':')?;
        parse(host).filter(|_| is_port(port))
    })
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn loopback_is_told_from_addresses_that_others_reach() {
        for (address, expected) in [
            ("127.0.0.1:10001", true),
            ("127.8.8.8:1", true),
            ("127.0.0.1", true),
            ("[::1]:10001", true),
            ("::1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("/run/envoy.sock", true),
            ("@envoy", true),
            ("10.0.0.7:10001", false),
            ("[2001:db8::1]:10001", false),
            ("0.0.0.0:10001", false),
            ("", false),
            ("localhost:1", false),
        ] {
            assert_eq!(is_loopback(address), expected, "{address}");
        }
    }

    #[test]
    fn a_host_is_this_machine_only_where_no_dns_server_can_say_otherwise() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:10001", true),
            ("localhost.", true),
            ("bluegreen.localhost:1", true),
            ("127.0.0.1:10001", true),
            ("[::1]:10001", true),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com:10001", false),
            ("example.com", false),
            ("notlocalhost", false),
            ("0.0.0.0:10001", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_host(host), expected, "{host}");
        }
    }
}
