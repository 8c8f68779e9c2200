//! A TOML table that remembers where it went wrong.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor, value::StringDeserializer,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

/// Deserializes one table. The place of an error is kept beside the error, because it has to pass through a
/// [`Registry`](quorate_replicator::Registry), which knows errors only as words.
pub(crate) struct Located<'de> {
    table: DeTable<'de>,
    place: Place,
}

/// Where in the text a deserialization stands, or ended.
#[derive(Clone, Debug)]
pub(crate) struct Place(Arc<Mutex<Range<usize>>>);

impl Place {
    /// The bytes of the text.
    pub(crate) fn span(&self) -> Range<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, span: Range<usize>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = span;
    }
}

impl<'de> Located<'de> {
    /// The table whose head stands at `head`.
    pub(crate) fn new(table: DeTable<'de>, head: Range<usize>) -> Self {
        Self { table, place: Place(Arc::new(Mutex::new(head))) }
    }

    /// To be asked for the place after an error.
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }
}

impl<'de> Deserializer<'de> for Located<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let head = self.place.span();
        let place = self.place.clone();
        let value = visitor.visit_map(Entries {
            rest: self.table.into_iter(),
            value: None,
            place,
            head,
        })?;
        Ok(value)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Entries<'de, I> {
    rest: I,
    value: Option<Spanned<DeValue<'de>>>,
    place: Place,
    head: Range<usize>,
}

impl<'de, I> MapAccess<'de> for Entries<'de, I>
where
    I: Iterator<Item = (Spanned<std::borrow::Cow<'de, str>>, Spanned<DeValue<'de>>)>,
{
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            // What is wrong from here on, such as a missing key, is wrong with the table.
            self.place.set(self.head.clone());
            return Ok(None);
        };
        self.place.set(key.span());
        self.value = Some(value);
        let key: StringDeserializer<Error> = key.into_inner().into_owned().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().expect("serde asks for a value after its key");
        self.place.set(value.span());
        seed.deserialize(ValueDeserializer::from(value)).inspect_err(|error| {
            if let Some(span) = error.span() {
                self.place.set(span);
            }
        })
    }
}
