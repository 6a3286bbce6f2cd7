//! The members of a type, as its `Deserialize` asks for them: every struct is given all its fields, every list
//! and map one element, every enum its first variant.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

type Found = Rc<RefCell<BTreeSet<String>>>;

/// The paths of all members of `T` that hold a value of their own, as the table writes them.
pub(super) fn members_of<'de, T: de::Deserialize<'de>>() -> BTreeSet<String> {
    let found = Found::default();
    T::deserialize(Probe { path: String::new(), found: Rc::clone(&found) }).unwrap();
    found.take()
}

#[derive(Clone)]
struct Probe {
    path: String,
    found: Found,
}

impl Probe {
    fn below(&self, name: &str) -> Probe {
        let path = match (self.path.is_empty(), name) {
            (true, _) => name.to_owned(),
            (false, "[]") => format!("{}[]", self.path),
            (false, _) => format!("{}.{name}", self.path),
        };
        Probe { path, found: Rc::clone(&self.found) }
    }

    fn record(&self) {
        self.found.borrow_mut().insert(self.path.clone());
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $value:expr,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.record();
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Error;

    leaves! {
        deserialize_bool visit_bool true, deserialize_i8 visit_i8 1, deserialize_i16 visit_i16 1,
        deserialize_i32 visit_i32 1, deserialize_i64 visit_i64 1, deserialize_u8 visit_u8 1,
        deserialize_u16 visit_u16 1, deserialize_u32 visit_u32 1, deserialize_u64 visit_u64 1,
        deserialize_f32 visit_f32 1.0, deserialize_f64 visit_f64 1.0, deserialize_char visit_char 'x',
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.record();
        // Most texts are free; these are checked.
        visitor.visit_str(if self.path.contains("capabilities") { "CAP_KILL" } else { "1" })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once(Some(self.below("[]"))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { names: ["{}"].iter(), at: self, value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { names: fields.iter(), at: self, value: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.record();
        visitor.visit_enum(First(variants[0]))
    }

    serde::forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Once(Option<Probe>);

impl<'de> SeqAccess<'de> for Once {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}

struct Fields {
    names: std::slice::Iter<'static, &'static str>,
    at: Probe,
    value: Option<Probe>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.value = Some(self.at.below(name));
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.value.take().unwrap())
    }
}

struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), Error> {
        let name: StrDeserializer<'_, Error> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(de::Error::custom("no such enum is expected"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("no such enum is expected"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("no such enum is expected"))
    }
}
