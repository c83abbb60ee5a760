//! Keeps programs that may use the network from listening where clients expect this process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, set_ipv6_v6only};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::TcpListener;

/// A listener's port in the address family that the listener does not cover. As long as this exists,
/// nobody else can listen there.
///
/// `localhost` is `::1` and 127.0.0.1. A client may try either first, so a program that listens on one of
/// them could answer in place of a listener on the other.
#[derive(Debug)]
pub struct ReservedPort {
    /// Bound without `SO_REUSEADDR`, which makes the kernel refuse the port to every other socket.
    _socket: OwnedFd,
}

impl ReservedPort {
    /// Reserves the port. None where a program could not listen there anyway, and where somebody else
    /// already does, which is logged.
    pub(super) fn beside(listener: &TcpListener) -> Option<Self> {
        // IPv4 listeners have no such option.
        let is_v6_only = ipv6_v6only(listener).unwrap_or(false);
        let address = uncovered(listener.local_addr().ok()?, is_v6_only)?;
        match reserve(address) {
            Ok(socket) => Some(Self { _socket: socket }),
            // This machine lacks the family, and so do its programs.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => None,
            Err(error) => {
                tracing::warn!(
                    %address,
                    %error,
                    "cannot reserve the port: whoever listens there can answer in place of this program"
                );
                None
            }
        }
    }
}

/// Every address of the other family, with the listener's port. None for a listener of both.
fn uncovered(listener: SocketAddr, is_v6_only: bool) -> Option<SocketAddr> {
    let ip = listener.ip().to_canonical();
    let other: IpAddr = match ip {
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !is_v6_only => return None,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.into(),
    };
    Some((other, listener.port()).into())
}

fn reserve(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // The listener has the port in the other family.
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_family_is_reserved_unless_the_listener_covers_both() {
        for (listener, is_v6_only, other) in [
            ("127.0.0.1:2000", false, Some("[::]:2000")),
            ("0.0.0.0:2000", false, Some("[::]:2000")),
            ("[::ffff:127.0.0.1]:2000", false, Some("[::]:2000")),
            ("[::1]:2000", false, Some("0.0.0.0:2000")),
            ("[::]:2000", true, Some("0.0.0.0:2000")),
            ("[::]:2000", false, None),
        ] {
            let found = uncovered(listener.parse().unwrap(), is_v6_only);
            assert_eq!(found, other.map(|text| text.parse().unwrap()), "{listener}");
        }
    }
}
