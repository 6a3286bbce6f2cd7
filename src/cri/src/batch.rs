//! Lists as streams, in messages of bounded size.

use std::pin::Pin;

use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

/// What the server sends on a stream.
pub(crate) type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A message is closed when the next item would make it larger. Far below the limit of clients, and large
/// enough that most nodes need one message.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Streams the items; `wrap` makes a message of at least one.
pub(crate) fn stream<T, M>(items: Vec<T>, wrap: fn(Vec<T>) -> M) -> BoxStream<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    Box::pin(stream::iter(batches(items, MAX_BATCH_BYTES).into_iter().map(move |batch| Ok(wrap(batch)))))
}

fn batches<T: Message>(items: Vec<T>, limit: usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = item.encoded_len();
        match batches.last_mut().filter(|_| bytes + size <= limit) {
            Some(batch) => batch.push(item),
            None => {
                batches.push(vec![item]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_bytes_and_never_empty() {
        let item = |size: usize| "x".repeat(size);
        let sizes = |items: Vec<String>| batches(items, 100).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
        assert_eq!(sizes(vec![item(1000)]), [1]);
        assert_eq!(sizes((0..10).map(|_| item(38)).collect()), [2, 2, 2, 2, 2]);
        assert_eq!(sizes(vec![item(10), item(1000), item(10), item(10)]), [1, 1, 2]);
    }
}
