//! A tar writer that can also write what no honest tool would: wrong sizes, odd types, any name.
//!
//! All times are zero, so the same entries give the same bytes.

/// Kind of an entry, as the type flag of its header.
pub mod kind {
    /// A regular file.
    pub const FILE: u8 = b'0';
    /// A hard link to an earlier entry.
    pub const HARDLINK: u8 = b'1';
    /// A symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHARACTER: u8 = b'3';
    /// A directory.
    pub const DIRECTORY: u8 = b'5';
    /// A FIFO.
    pub const FIFO: u8 = b'6';
}

/// One entry. The defaults are an empty regular file of root's with mode 0644.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name; longer than 100 bytes goes into a PAX record.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// A [`kind`].
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number: major, minor.
    pub device: (u32, u32),
    /// Content of a file.
    pub content: Vec<u8>,
    /// What the header says of the size, if not the truth.
    pub claimed_size: Option<u64>,
    /// PAX records before the entry.
    pub pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// An entry of a kind with mode 0644 (directories 0755).
    pub fn new(kind: u8, name: impl Into<Vec<u8>>) -> Entry {
        Entry {
            name: name.into(),
            link: Vec::new(),
            kind,
            mode: if kind == kind::DIRECTORY { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            device: (0, 0),
            content: Vec::new(),
            claimed_size: None,
            pax: Vec::new(),
        }
    }

    /// A regular file.
    pub fn file(name: &str, content: impl Into<Vec<u8>>) -> Entry {
        Entry { content: content.into(), ..Entry::new(kind::FILE, name) }
    }

    /// A directory.
    pub fn dir(name: &str) -> Entry {
        Entry::new(kind::DIRECTORY, name)
    }

    /// A symbolic link.
    pub fn symlink(name: &str, target: &str) -> Entry {
        Entry { link: target.into(), mode: 0o777, ..Entry::new(kind::SYMLINK, name) }
    }

    /// A hard link.
    pub fn hardlink(name: &str, target: &str) -> Entry {
        Entry { link: target.into(), ..Entry::new(kind::HARDLINK, name) }
    }

    /// The same with other permission bits.
    pub fn mode(self, mode: u32) -> Entry {
        Entry { mode, ..self }
    }

    /// The same with another owner and group.
    pub fn owner(self, uid: u32, gid: u32) -> Entry {
        Entry { uid, gid, ..self }
    }

    /// The same with a PAX record before it.
    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Entry {
        self.pax.push((key.to_owned(), value.into()));
        self
    }
}

/// Writes an archive with its end marker.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        append(&mut bytes, entry);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn append(bytes: &mut Vec<u8>, entry: &Entry) {
    let mut records: Vec<u8> = Vec::new();
    for (key, value) in &entry.pax {
        records.extend_from_slice(&pax_record(key, value));
    }
    if entry.name.len() > 100 {
        records.extend_from_slice(&pax_record("path", &entry.name));
    }
    if entry.link.len() > 100 {
        records.extend_from_slice(&pax_record("linkpath", &entry.link));
    }
    if !records.is_empty() {
        let size = records.len() as u64;
        header(bytes, &Entry::new(b'x', "pax"), size);
        content(bytes, &records);
    }
    header(bytes, entry, entry.claimed_size.unwrap_or(entry.content.len() as u64));
    content(bytes, &entry.content);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn header(bytes: &mut Vec<u8>, entry: &Entry, size: u64) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(0, &entry.name[..entry.name.len().min(100)]);
    put(100, format!("{:07o}", entry.mode).as_bytes());
    put(108, format!("{:07o}", entry.uid & 0o7777777).as_bytes());
    put(116, format!("{:07o}", entry.gid & 0o7777777).as_bytes());
    if size < 0o77777777777 {
        put(124, format!("{size:011o}").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", entry.device.0).as_bytes());
    put(337, format!("{:07o}", entry.device.1).as_bytes());
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(&header);
}

fn content(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_count_themselves() {
        assert_eq!(pax_record("path", b"a"), b"9 path=a\n");
        assert_eq!(pax_record("k", &[b'v'; 94]).len(), 101);
        assert!(pax_record("k", &[b'v'; 94]).starts_with(b"101 k="));
    }
}
