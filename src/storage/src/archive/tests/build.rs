//! A writer of tar archives that writes whatever it is told, well-formed or not.

use super::super::header::BLOCK;

/// One header and its data, before they are written.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: Option<Vec<u8>>,
    pub(crate) data: Vec<u8>,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) gnu: bool,
    /// Bytes to put over the header, before it is summed.
    pub(crate) patches: Vec<(usize, Vec<u8>)>,
}

impl Item {
    pub(crate) fn new(name: &str, flag: u8) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            link: Vec::new(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: None,
            data: Vec::new(),
            mtime: 1_000_000_000,
            device: (0, 0),
            gnu: false,
            patches: Vec::new(),
        }
    }

    pub(crate) fn link(mut self, link: &str) -> Self {
        self.link = link.as_bytes().to_vec();
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn size(mut self, field: &[u8]) -> Self {
        self.size = Some(field.to_vec());
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub(crate) fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patches.push((at, bytes.to_vec()));
        self
    }

    pub(crate) fn gnu(mut self) -> Self {
        self.gnu = true;
        self
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, &number(self.uid));
        put(116, &number(self.gid));
        let size = self.size.clone().unwrap_or_else(|| format!("{:011o}", self.data.len()).into_bytes());
        put(124, &size);
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.flag]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, if self.gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        for (at, bytes) in &self.patches {
            put(*at, bytes);
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

fn number(value: u64) -> Vec<u8> {
    if value < 1 << 21 {
        return format!("{value:07o}").into_bytes();
    }
    let mut bytes = value.to_be_bytes().to_vec();
    bytes[0] = 0x80;
    bytes
}

pub(crate) fn file(name: &str, data: &[u8]) -> Item {
    Item::new(name, b'0').data(data)
}

pub(crate) fn directory(name: &str) -> Item {
    Item::new(name, b'5')
}

pub(crate) fn symlink(name: &str, target: &str) -> Item {
    Item::new(name, b'2').link(target).mode(0o777)
}

pub(crate) fn hard_link(name: &str, target: &str) -> Item {
    Item::new(name, b'1').link(target)
}

/// Records of an extended header.
pub(crate) fn records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        data.extend_from_slice(format!("{length} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

pub(crate) fn pax(list: &[(&str, &[u8])]) -> Item {
    Item::new("PaxHeaders/x", b'x').data(&records(list))
}

/// Writes archives.
#[derive(Default)]
pub(crate) struct Builder(pub(crate) Vec<u8>);

impl Builder {
    pub(crate) fn of(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
        let mut builder = Self::default();
        for item in items {
            builder.add(&item);
        }
        builder.finish()
    }

    pub(crate) fn add(&mut self, item: &Item) {
        self.0.extend_from_slice(&item.header());
        self.0.extend_from_slice(&item.data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK]);
        self.0
    }
}
