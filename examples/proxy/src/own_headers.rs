//! Headers that the proxy sends in its clients' stead, a token above all.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::{info, warn};

/// A header as `Name: value`. It may be a secret: nothing shows its value, or what could not be
/// read as one.
#[derive(Debug, Clone)]
pub struct Header {
    name: HeaderName,
    value: HeaderValue,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(header: &str) -> Result<Self, Self::Err> {
        const NONE: &str = "a header is a name, a colon and a value";
        let (name, value) = header.split_once(':').ok_or(NONE)?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| NONE)?;
        value.set_sensitive(true);
        let name = name.trim().parse().map_err(|_| NONE)?;
        Ok(Self { name, value })
    }
}

/// What goes with every request, in place of what the client sent by that name.
#[derive(Debug)]
pub struct OwnHeaders {
    given: HeaderMap,
    file: Option<Mutex<File>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
    headers: HeaderMap,
}

impl OwnHeaders {
    pub fn new(given: &[String], file: Option<&Path>) -> Result<Self, String> {
        let given =
            parse(given.iter().map(String::as_str)).map_err(|why| format!("--header: {why}"))?;
        let cannot = |why: &dyn std::fmt::Display| format!("--header-file: {why}");
        let file = match file {
            None => None,
            Some(path) => {
                let seen = version(path);
                let headers = read(path).map_err(|why| cannot(&why))?;
                let path = path.to_owned();
                Some(Mutex::new(File {
                    path,
                    seen,
                    headers,
                }))
            }
        };
        Ok(Self { given, file })
    }

    pub fn set(&self, headers: &mut HeaderMap) {
        replace(headers, &self.given);
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.refresh();
            replace(headers, &file.headers);
        }
    }
}

impl File {
    /// Asking for a file's time costs a microsecond, and a new token counts from the next request
    /// on.
    fn refresh(&mut self) {
        let now = version(&self.path);
        if now == self.seen {
            return;
        }
        self.seen = now;
        match read(&self.path) {
            Ok(headers) => {
                self.headers = headers;
                info!("read --header-file again");
            }
            // It may be about to be written.
            Err(why) => warn!("--header-file: {why}; what it said before still counts"),
        }
    }
}

fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn read(path: &Path) -> Result<HeaderMap, String> {
    let text = fs::read_to_string(path).map_err(|why| why.kind().to_string())?;
    let lines = text.lines().map(str::trim);
    let headers = parse(lines.filter(|line| !line.is_empty() && !line.starts_with('#')))?;
    Ok(headers)
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let header: Header = line.parse()?;
        headers.append(header.name, header.value);
    }
    Ok(headers)
}

fn replace(headers: &mut HeaderMap, own: &HeaderMap) {
    for name in own.keys() {
        headers.remove(name);
        for value in own.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}
