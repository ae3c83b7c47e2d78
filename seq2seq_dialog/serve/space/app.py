"""A chat page for one dialogue model, which needs transformers, torch and gradio alone.

    MODEL=user/name python app.py

In a Space, model.json beside this file names the model and its commit. Code and weights of that
commit run here; nothing that is committed to the model's repository later does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gradio as gr
import torch
from huggingface_hub import constants
from transformers import pipeline

try:
    from . import conversation
except ImportError:  # in a Space this file is no part of a package
    import conversation

OPENINGS = (
    "Hi! How are you today?",
    "What are you doing this weekend?",
    "I'd like to book a table for two.",
    "I have lost my keys. What shall I do?",
)
# option of generate(): label, explanation, least, greatest, step, value where the model sets none
SLIDERS = {
    "temperature": ("Temperature", "low: usual, high: daring", 0.1, 2.0, 0.01, 1.0),
    "top_p": ("Top-p", "draw from this share of likelihood", 0.05, 1.0, 0.01, 1.0),
    "top_k": ("Top-k", "draw from so many tokens; 0: all", 0, 200, 1, 50),
    "num_beams": ("Beams", "replies weighed side by side", 1, 8, 1, 1),
    "max_new_tokens": ("Longest reply", "in tokens", 1, 128, 1, 64),
    "no_repeat_ngram_size": ("No repeats", "of so many tokens in a row; 0: allowed", 0, 6, 1, 0),
    "candidates": ("Candidates", "replies to choose the best from", 1, 20, 1, 1),
}
RERANK = {  # what the best is chosen by
    "as the model has it": None,
    "likelihood": {"likelihood": 1},
    "likelihood, against what fits every context": {"likelihood": 1, "context_free": 0.5},
    "agreement with the other candidates": {"mbr": 1},
}
SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")
CANNOT = (
    "What is learnt from dialogues is how people answer, not what is true: replies are made up, "
    "may offend, and know neither you nor today's date."
)
BLOCKS = {"fill_height": True, "analytics_enabled": False, "delete_cache": (3600, 3600)}  # seconds
# The look of the page. It uses the reader's fonts and fetches none.
LAUNCH_OPTIONS = {
    "theme": gr.themes.Soft(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_border_width="1px",
        block_border_width_dark="1px",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="500",
        block_title_padding="0",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_border_width="1px",
        input_border_color="*neutral_300",
        checkbox_border_width="1px",
        checkbox_border_color="*neutral_400",
    ),
    "css": """
        .app { max-width: 860px !important; }
        .app:has(.several) { max-width: 1280px !important; }
        .heading ul { margin: 8px 0; }
        .standings :is(table, th, td) { border-color: var(--border-color-primary) !important; }
        .standings .md { overflow-x: auto; }
        .heading { padding-top: 8px !important; }
        .heading h1 { margin: 0; font-size: 1.5rem; }
        .heading p { margin: 4px 0 0; color: var(--body-text-color-subdued); }
        .bubble-wrap .examples {
            grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr));
        }
        .bubble-wrap .example {
            padding: 10px 14px; border: 1px solid var(--border-color-primary);
            border-radius: var(--radius-xl); background: var(--background-fill-secondary);
        }
        .bubble-wrap .example:hover { border-color: var(--color-accent); }
        footer { margin-top: 8px !important; }
    """,
    # Gradio locks the textbox during a reply, which takes the cursor out of it, and leaves the
    # buttons within it without names for those who do not see them.
    "js": """() => {
        const names = { ".submit-button": "Send", ".stop-button": "Stop" };
        const label = () => {
            for (const [kind, name] of Object.entries(names))
                for (const button of document.querySelectorAll(`.message-box ${kind}`))
                    button.setAttribute("aria-label", name);
        };
        const focus = (changes) => {
            for (const { target } of changes)
                if (target.matches(".message-box textarea:enabled") && target.offsetParent &&
                    document.activeElement === document.body) target.focus();
        };
        const page = { childList: true, subtree: true };
        new MutationObserver(label).observe(document.body, page);
        new MutationObserver(focus).observe(document.body, {
            subtree: true, attributeFilter: ["disabled"]
        });
        label();
    }""",
    "footer_links": ["api", "gradio", "settings"],
    "run_history": False,
    "max_file_size": 0,  # bytes: nothing is uploaded
}


def page(speaker: conversation.Speaker, openings: Sequence[str] = OPENINGS) -> gr.Blocks:
    """Make the chat page of a model. Visitors can choose one of `openings` by a click."""
    name = speaker.name
    with gr.Blocks(title=title(name), **BLOCKS) as demo:
        gr.Markdown(heading(speaker), elem_classes="heading")
        chatbot = make_chatbot(openings, "Dialogue", show_label=False, scale=1)
        message = make_message()
        controls, show = decoding_controls(speaker.model.generation_config, speaker.extras)
        reply = conversation.replier(speaker)

        def answer(histories: Sequence, values: Sequence) -> Iterator[list]:
            *settings, shown = values
            for messages in reply(histories[0], as_options(*settings), shown):
                yield [[*histories[0], *messages]]

        conversation.connect([chatbot], message, [*controls, show], answer)
        add_endpoint(speaker, message, controls)
    return queued(demo)


def queued(demo: gr.Blocks) -> gr.Blocks:
    """Let visitors wait in a queue; one reply is made at a time, as a second shares the cores."""
    return demo.queue(default_concurrency_limit=1, max_size=32)


def make_chatbot(openings: Sequence[str], label: str, **options) -> gr.Chatbot:
    """Make the part of the page that shows a dialogue."""
    return gr.Chatbot(
        label=label,
        render_markdown=False,  # stars and hashes are shown as typed
        latex_delimiters=[],  # and dollars
        placeholder=f"**Say something**{', or begin with one of these' if openings else ''}.",
        examples=[{"text": opening} for opening in openings] or None,
        editable="user",
        buttons=["copy_all"],
        **options,
    )


def make_message() -> gr.Textbox:
    """Make the box that messages are typed into."""
    return gr.Textbox(
        elem_classes="message-box",
        label="Your message",
        placeholder="Say something…",
        show_label=False,
        autofocus=True,
        submit_btn=True,
    )


def decoding_controls(config, extras: Mapping) -> tuple[list, gr.CheckboxGroup]:
    """Make the controls of decoding, in the order of `as_options`, and that of what is shown."""
    with gr.Accordion("Decoding", open=False):
        do_sample = gr.Checkbox(
            bool(config.do_sample),
            label="Sample",
            info="draw each token at random, so that a reply can differ each time",
        )
        with gr.Row():
            sampling = [slider(option, config, config.do_sample) for option in SAMPLING_OPTIONS]
        with gr.Row():
            others = [
                slider(option, config) for option in SLIDERS if option not in SAMPLING_OPTIONS
            ]
        rerank = gr.Dropdown(list(RERANK), label="Candidates are chosen by")
        show = gr.CheckboxGroup(
            list(extras),
            label="Show under each reply",
            info="each takes time of its own",
            visible=bool(extras),
        )
    do_sample.change(
        lambda on: [gr.update(interactive=on) for _ in sampling],
        do_sample,
        sampling,
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    return [do_sample, *sampling, *others, rerank], show


def as_options(
    do_sample: bool,
    temperature: float,
    top_p: float,
    top_k: int,
    num_beams: int,
    max_new_tokens: int,
    no_repeat_ngram_size: int,
    candidates: int,
    rerank: str,
) -> dict:
    """Return the options of `generate()` for values of the controls."""
    options = {
        "do_sample": do_sample,
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "candidates": candidates,
    }
    if candidates > 1 and RERANK[rerank]:
        options["rerank"] = RERANK[rerank]
    if do_sample:  # 1 comes as an int, which generate() does not take for a temperature
        options |= {"temperature": float(temperature), "top_p": float(top_p), "top_k": top_k}
    return options


def add_endpoint(speaker: conversation.Speaker, message: gr.Textbox, controls: Sequence) -> None:
    """Let programs chat, each with a dialogue of its own: `Client(...).predict(message)`."""

    @conversation.GPU(duration=15)  # seconds
    def generate(messages: list[dict], options: dict) -> str:
        return speaker.reply(messages, options)

    def chat(
        message: str,
        history: list[dict],
        do_sample: bool,
        temperature: float,
        top_p: float,
        top_k: int,
        num_beams: int,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        candidates: int,
        rerank: str,
    ) -> tuple[str, list[dict]]:
        """Reply to a message in the dialogue of a visitor."""
        options = as_options(
            do_sample,
            temperature,
            top_p,
            top_k,
            num_beams,
            max_new_tokens,
            no_repeat_ngram_size,
            candidates,
            rerank,
        )
        history = [*history, conversation.message("user", message)]
        try:
            conversation.check_message(message)
            reply = generate(conversation.as_messages(history), options)
        except ValueError as error:  # such as settings that do not go together
            raise gr.Error(str(error), print_exception=False) from error
        return reply, [*history, conversation.message("assistant", reply)]

    history = gr.State([])
    gr.Button(visible=False).click(
        chat,
        [message, history, *controls],
        [gr.Textbox(label="Reply", visible=False), history],
        api_name="chat",
        concurrency_id="reply",
    )


def title(name: str) -> str:
    """Word the title of the page."""
    return f"Chat with {Path(name).resolve().name}"


def heading(speaker: conversation.Speaker) -> str:
    """Word the heading of the page: which model it is, what it reads, what it cannot do."""
    return f"# {title(speaker.name)}\n{description(speaker)}\n\n{CANNOT}"


def description(speaker: conversation.Speaker) -> str:
    """Word which model it is and what it reads."""
    name = speaker.name
    size = speaker.model.num_parameters() / 1e6
    on_hub = "/" in name and not Path(name).is_dir()  # else a folder, or what ships here
    link = f"[{name}]({constants.ENDPOINT}/{name})" if on_hub else f"`{name}`"
    return (
        f"{link} · {size:.{0 if size >= 10 else 1}f} million parameters · reads the last "
        f"{speaker.tokenizer.model_max_length} tokens of the dialogue"
    )


def slider(option: str, config, interactive: bool = True) -> gr.Slider:
    """Make the slider of an option of `generate()`, beginning at the model's own value."""
    label, info, low, high, step, unset = SLIDERS[option]
    value = getattr(config, option, None)
    value = unset if value is None else value
    return gr.Slider(
        min(low, value),
        max(high, value),
        value,
        step=step,
        precision=0 if step == 1 else None,
        label=label,
        info=info,
        min_width=200,
        interactive=bool(interactive),
    )


def failure_page(name: str, message: str) -> gr.Blocks:
    """Make the page of a model that cannot be loaded; the log has the message, too."""
    print(message, file=sys.stderr, flush=True)
    with gr.Blocks(title=title(name), analytics_enabled=False) as demo:
        gr.Textbox(message, label="There is no chat", lines=4, interactive=False)
    return demo


def main() -> gr.Blocks:
    """Load the model and make its page, or the page that says why there is none."""
    about = Path(__file__).with_name("model.json")
    about = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if os.environ.get("MODEL"):
        about |= {"model": os.environ["MODEL"], "revision": os.environ.get("REVISION")}
    if "model" not in about:
        sys.exit("Which model? Set the variable MODEL to user/name or a folder.")
    if os.environ.get("CPU_CORES"):  # set in a Space, where torch counts the whole machine's
        torch.set_num_threads(max(1, int(float(os.environ["CPU_CORES"]))))
    name, revision = about["model"], about.get("revision")
    if not revision and not Path(name).is_dir():
        print(f"The code of {name} runs as it is today. Set REVISION to a commit you have read.")
    try:
        generate_reply = pipeline(
            "text2text-generation", model=name, revision=revision, trust_remote_code=True
        )
    except Exception as error:  # damaged files raise what each library raises
        reason = " ".join(str(error).split())[:600] or type(error).__name__
        return failure_page(
            name,
            f"Cannot load {name} at {revision or 'main'}: {reason}\nIf the model is private, the "
            "Space needs a secret HF_TOKEN, a token that may read it (Settings, Variables and "
            "secrets).",
        )

    def answer(messages: list[dict], **options) -> str:
        return generate_reply(messages, **options)[0]["generated_text"]

    def encode(messages: list[dict]) -> list[int]:
        return generate_reply.preprocess(messages)["input_ids"][0].tolist()

    speaker = conversation.Speaker(
        name, generate_reply.model, generate_reply.tokenizer, answer, encode
    )
    return page(speaker, about.get("openings") or OPENINGS)


if __name__ == "__main__":
    demo = main()
    demo.launch(**LAUNCH_OPTIONS)
