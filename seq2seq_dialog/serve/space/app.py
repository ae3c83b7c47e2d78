"""A chat page for one dialogue model, which needs transformers, torch and gradio alone.

    MODEL=user/name python app.py

In a Space, model.json beside this file names the model and its commit. Code and weights of that
commit run here; nothing that is committed to the model's repository later does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gradio as gr
import torch
from huggingface_hub import constants
from transformers import pipeline

try:
    from spaces import GPU  # installed on ZeroGPU hardware; it has to be imported before torch
except ImportError:

    def GPU(**_):
        """Return a function as it is, where there is no GPU to ask for."""
        return lambda function: function


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
}
SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")
LONGEST_MESSAGE = 4000  # letters, far more than a model reads
MOST_TURNS = 256  # of a dialogue that are looked at, the latest
TOO_LONG = f"The message is too long: at most {LONGEST_MESSAGE:,} letters."
SAY_SOMETHING = "Say something first: the message is empty."
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
    # Gradio locks the textbox during a reply, which takes the cursor out of it.
    "js": """() => {
        const box = document.querySelector("#message textarea");
        if (!box) return;  // the page of a failure
        const back = () => box.disabled || document.activeElement !== document.body || box.focus();
        new MutationObserver(back).observe(box, { attributeFilter: ["disabled"] });
    }""",
    "footer_links": ["api", "gradio", "settings"],
    "run_history": False,
    "max_file_size": 0,  # bytes: nothing is uploaded
}


def page(answer, model, tokenizer, name: str, openings=OPENINGS) -> gr.Blocks:
    """Make the chat page of a model, `user/name` on the Hub or a folder.

    `answer` returns the reply to a list of messages, given options of `generate()`. Visitors can
    choose one of `openings` by a click.
    """
    with gr.Blocks(title=title(name), fill_height=True, analytics_enabled=False) as demo:
        gr.Markdown(heading(model, tokenizer, name), elem_classes="heading")
        conversation = gr.Column(scale=1)
        with gr.Accordion("Decoding", open=False):
            controls = decoding_controls(model.generation_config)
        with conversation:
            gr.ChatInterface(
                chat_function(answer),
                chatbot=gr.Chatbot(
                    show_label=False,
                    scale=1,
                    render_markdown=False,  # stars and hashes are shown as typed
                    placeholder="**Say something**, or begin with one of these.",
                    buttons=["copy_all"],
                ),
                textbox=gr.Textbox(
                    elem_id="message",
                    label="Your message",
                    placeholder="Say something…",
                    max_length=LONGEST_MESSAGE,
                    show_label=False,
                    autofocus=True,
                    submit_btn=True,
                ),
                additional_inputs=controls,
                examples=[[opening] for opening in openings],
                cache_examples=False,
                validator=lambda message: gr.validate(bool((message or "").strip()), SAY_SOMETHING),
                analytics_enabled=False,
                api_name="chat",
            )
    # One reply at a time: a second would only share the same cores.
    return demo.queue(default_concurrency_limit=1, max_size=32)


def decoding_controls(config) -> list:
    """Make the controls of decoding, in the order in which `chat` takes them."""
    do_sample = gr.Checkbox(
        bool(config.do_sample),
        label="Sample",
        info="draw each token at random, so that a reply can differ each time",
    )
    with gr.Row():
        sampling = [slider(option, config, config.do_sample) for option in SAMPLING_OPTIONS]
    with gr.Row():
        others = [slider(option, config) for option in SLIDERS if option not in SAMPLING_OPTIONS]
    do_sample.change(
        lambda on: [gr.update(interactive=on) for _ in sampling],
        do_sample,
        sampling,
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    return [do_sample, *sampling, *others]


def chat_function(answer):
    """Make the function behind the page."""

    @GPU(duration=15)  # seconds
    def generate(messages: list[dict], settings: dict) -> str:
        try:
            return answer(messages, **settings)
        except ValueError as error:  # settings that do not go together
            raise gr.Error(str(error), print_exception=False) from error

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
    ) -> str:
        """Reply to a message in the dialogue of a visitor."""
        if not (message or "").strip():
            raise gr.Error(SAY_SOMETHING, print_exception=False)
        settings = {
            "do_sample": do_sample,
            "num_beams": num_beams,
            "max_new_tokens": max_new_tokens,
            "no_repeat_ngram_size": no_repeat_ngram_size,
        }
        if do_sample:  # 1 comes as an int, which generate() does not take for a temperature
            settings |= {"temperature": float(temperature), "top_p": float(top_p), "top_k": top_k}
        turns = [*history[-MOST_TURNS:], {"role": "user", "content": message}]
        messages = [{"role": turn["role"], "content": text(turn["content"])} for turn in turns]
        if any(len(turn["content"]) > LONGEST_MESSAGE for turn in messages):
            raise gr.Error(TOO_LONG, print_exception=False)
        reply = generate(messages, settings)
        if not reply:
            gr.Info("The reply is empty. Say something else, or let the model sample.")
        return reply

    return chat


def title(name: str) -> str:
    """Word the title of the page."""
    return f"Chat with {Path(name).resolve().name}"


def heading(model, tokenizer, name: str) -> str:
    """Word the heading of the page: which model it is, what it reads, what it cannot do."""
    size = model.num_parameters() / 1e6
    link = f"`{name}`" if Path(name).is_dir() else f"[{name}]({constants.ENDPOINT}/{name})"
    return (
        f"# {title(name)}\n"
        f"{link} · {size:.{0 if size >= 10 else 1}f} million parameters · reads the last "
        f"{tokenizer.model_max_length} tokens of the dialogue\n\n"
        "It has learnt from dialogues how people answer, not what is true: it makes things up, may "
        "offend, and knows neither you nor today's date."
    )


def slider(option: str, config, interactive: bool = True) -> gr.Slider:
    """Make the slider of an option of `generate()`, beginning at the model's own value."""
    label, info, low, high, step, unset = SLIDERS[option]
    value = getattr(config, option)
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


def text(content: str | list[dict]) -> str:
    """Return the text of a turn, which Gradio passes as a string or in parts."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


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

    def answer(messages: list[dict], **settings) -> str:
        return generate_reply(messages, **settings)[0]["generated_text"]

    openings = about.get("openings") or OPENINGS
    return page(answer, generate_reply.model, generate_reply.tokenizer, name, openings)


if __name__ == "__main__":
    demo = main()
    demo.launch(**LAUNCH_OPTIONS)
