//! The sockets that the director listens on.

use crate::api_access::{Access, AccessError};
use crate::config_api::{ApiListen, SocketGroup};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// Why the director cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another director has the socket.
    #[error("another shunt listens at {}: end it, or give this one its own [api] socket in the config", .0.display())]
    Running(PathBuf),
    /// Something else is in the way.
    #[error("{} exists and is no socket: remove it, or change [api] socket in the config", .0.display())]
    NoSocket(PathBuf),
    /// The API's socket cannot be made.
    #[error("cannot listen at {} ({cause}): run as root, or change [api] socket in the config", path.display())]
    Api {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The socket cannot be given to its group.
    #[error("cannot give {} to the group {group} ({cause}): run as root, or remove [api] group from the config", path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
        /// Why.
        cause: io::Error,
    },
    /// The API's address cannot be had.
    #[error(
        "cannot listen at {address} for the API ({cause}): change [api] listen in the config, or remove it for no TCP listener"
    )]
    ApiAddress {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// The token or the certificate is of no use.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The metrics' address cannot be had.
    #[error(
        "cannot listen at {address} for metrics ({cause}): change [metrics] listen in the config; \"off\" switches them off"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// The API's socket, with its file.
pub struct ApiSocket {
    /// Takes connections.
    pub listener: UnixListener,
    /// Removes the file when dropped.
    pub guard: SocketFile,
}

/// Removes a socket's file when dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else has removed it, that is as well.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens at a Unix socket that only this user may open, and the group, if there is one. A file
/// that a dead process left is replaced.
pub fn api(path: &Path, group: Option<&SocketGroup>) -> Result<ApiSocket, ListenError> {
    let failed = |cause| ListenError::Api { path: path.to_owned(), cause };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => match BlockingUnixStream::connect(path) {
            Ok(_) => return Err(ListenError::Running(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    // With the right mode from the beginning: afterwards would be too late.
    let former = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(former);
    let socket = ApiSocket { listener: bound.map_err(failed)?, guard: SocketFile(path.to_owned()) };
    if let Some(SocketGroup { name, gid }) = group {
        let group = name.clone();
        // Root and the group may connect, which takes the right to write.
        chown(path, None, Some(*gid))
            .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o660)))
            .map_err(|cause| ListenError::Group { path: path.to_owned(), group, cause })?;
    }
    Ok(socket)
}

/// Listens for the API at a TCP address, and reads who is let in.
pub fn api_over_tcp(listen: &ApiListen) -> Result<(TcpListener, Arc<Access>), ListenError> {
    let access = Access::read(listen)?;
    let address = listen.address;
    let listener = tcp(address).map_err(|cause| ListenError::ApiAddress { address, cause })?;
    Ok((listener, Arc::new(access)))
}

/// Listens for the metrics at a TCP address.
pub fn metrics(address: SocketAddr) -> Result<TcpListener, ListenError> {
    tcp(address).map_err(|cause| ListenError::Metrics { address, cause })
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("shunt-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn only_the_user_may_open_it_and_it_goes_when_done() {
        let folder = Folder::new("mode");
        let path = folder.0.join("deep/api.sock");
        let socket = api(&path, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_group_may_open_it_too() {
        let folder = Folder::new("group");
        let path = folder.0.join("api.sock");
        let group = SocketGroup { name: "nogroup".into(), gid: 65_534 };
        let socket = api(&path, Some(&group)).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o660, 0, 65_534));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_of_a_dead_process_is_replaced_and_a_living_one_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let living = api(&path, None).unwrap();
        let refused = api(&path, None).err().unwrap();
        assert!(matches!(refused, ListenError::Running(_)), "{refused}");
        assert!(path.exists(), "the living one keeps its file");
        drop(living);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        let refused = api(&path, None).err().unwrap();
        assert!(refused.to_string().contains("is no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = metrics("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let message = metrics(address).err().unwrap().to_string();
        assert!(message.contains(&address.to_string()) && message.contains("off"), "{message}");
    }
}
