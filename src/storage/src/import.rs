//! x
use crate::*;
impl Store {
    /// Imports every image for `platform` from a tar stream: an OCI image layout, or what `docker save` writes. Images get
    /// the names that the archive gives them; `names` are for the image of an archive that holds one.
    pub fn import(
        &self,
        reader: impl std::io::Read + Send + 'static,
        platform: &oci::Platform,
        names: &[oci::Reference],
    ) -> Result<Vec<Image>, Error> {
        let _ = (reader, platform, names);
        Err(Error::NotAnImage { reason: String::new() })
    }
}
