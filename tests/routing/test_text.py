"""What the router reads: user turns without the frame around them."""

from routing.text import Frame, find_frame, router_text


def test_user_turns_are_read_and_system_prompts_are_not():
    parts = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "z"},
    ]
    assert router_text([*messages, {"role": "user", "content": parts}]) == "a\n\nb"


def test_a_shared_instruction_is_stripped_and_a_chance_start_is_not():
    instruction = "Answer the following question with one letter and nothing else, please.\n"
    texts = [
        f"{instruction}What is {i} plus {i}?\nThink it over twice before you commit to any answer at all."
        for i in range(30)
    ]
    frame = find_frame(texts)
    assert frame.prefix.startswith(instruction) and frame.inner(texts[3]).startswith("3 plus 3?")
    assert "Think" not in frame.inner(texts[3])
    assert find_frame([f"What is {i}?" for i in range(30)]) == Frame()
    assert find_frame(texts[:5]) == Frame()


def test_stripping_never_leaves_nothing():
    assert Frame(prefix="all of it").inner("all of it") == "all of it"
