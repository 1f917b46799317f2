//! The notifications that tell a caller that a list may have changed (rule H3).

use bytes::Bytes;

use super::{initialize::ListChanged, message_event};

/// `notifications/…/list_changed` for each of the lists, as events (rule H3).
pub(crate) fn list_changed_event(lists: ListChanged) -> Bytes {
    [
        (lists.tools, "tools"),
        (lists.prompts, "prompts"),
        (lists.resources, "resources"),
    ]
    .into_iter()
    .filter(|(changed, _)| *changed)
    .map(|(_, list)| {
        message_event(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#
        ))
    })
    .collect::<String>()
    .into()
}
