"""Messages as chat templates read them."""

from rsr_runtime.serve.conversation import template_messages
from rsr_runtime.serve.schema import Message


def test_a_developer_s_message_is_one_of_the_system() -> None:
    messages = [Message(role="developer", content="Be brief."), Message(role="user", content="a")]
    assert template_messages(messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
    ]
