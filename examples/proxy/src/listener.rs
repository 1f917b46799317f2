//! Where clients connect: a TCP port or a Unix socket.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A client that was unplugged is found out after three of these.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection of a client.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    Unix(unix::Socket),
}

impl Listener {
    /// Listens on `unix:PATH` or `HOST:PORT`.
    pub async fn bind(to: &str) -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(path) = to.strip_prefix("unix:") {
            return unix::Socket::bind(path.as_ref()).map(Self::Unix);
        }
        let listener = TcpListener::bind(to).await?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    pub async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                set_up(&stream);
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Self::Unix(socket) => Ok(Box::new(socket.accept().await?)),
        }
    }

    /// The address, if other machines could reach it, or web pages.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    pub fn is_for_others(&self) -> bool {
        let address = self.address();
        address.is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.address().map(|address| address.ip())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => write!(f, "http://{address}"),
            #[cfg(unix)]
            Self::Unix(socket) => write!(f, "{socket}"),
        }
    }
}

fn set_up(stream: &TcpStream) {
    // An event is a small packet, and must not wait for the next.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

#[cfg(unix)]
mod unix {
    use std::{
        fmt, fs, io,
        os::unix::net::UnixStream as Probe,
        path::{Path, PathBuf},
    };

    use tokio::net::{UnixListener, UnixStream};

    /// A socket in the file system, which is gone when this is.
    pub struct Socket {
        listener: UnixListener,
        path: PathBuf,
    }

    impl Socket {
        pub fn bind(path: &Path) -> io::Result<Self> {
            let mut listener = UnixListener::bind(path);
            let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
            // One that was killed has left its socket behind.
            if listener.as_ref().is_err_and(in_use) && is_left_behind(path) {
                fs::remove_file(path)?;
                listener = UnixListener::bind(path);
            }
            let path = path.to_owned();
            listener.map(|listener| Self { listener, path })
        }

        pub async fn accept(&self) -> io::Result<UnixStream> {
            let (stream, _) = self.listener.accept().await?;
            Ok(stream)
        }
    }

    fn is_left_behind(path: &Path) -> bool {
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        Probe::connect(path).is_err_and(refused)
    }

    impl fmt::Display for Socket {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "unix:{}", self.path.display())
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
