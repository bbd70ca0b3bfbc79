"""What every -M option has: a declaration that the docs, labels and errors are made from."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from steering.vocabulary import EngineName


@dataclass(frozen=True)
class Option:
    """One -M option.

    Attributes:
        name: Its name.
        description: One sentence for people.
        default: Its value when it is not given.
        example: A value as it is typed after `-M name=`.
        speed_only: Whether it can't change an answer, only how soon it comes.
        record_only: Whether it can't change an answer, only what is recorded of it.
        label: How the condition's label shows a value other than the default, as a format string;
            None where `label()` shows it in another way.
        nullable: Whether an empty value means the default rather than an error.
        engine: The one engine that has it; None for both.
        flag: Its name on the command line of `steering`, where the commands that load a model take
            it.
    """

    name: str
    description: str
    default: Any
    example: str
    speed_only: bool = False
    record_only: bool = False
    label: str | None = "{name}={value}"
    nullable: bool = False
    engine: EngineName | None = None
    flag: str | None = None

    @property
    def changes_answers(self) -> bool:
        """Whether answers may differ where it does."""
        return not (self.speed_only or self.record_only)


def option(default: Any, description: str, **facts: Any) -> Any:
    """Declare a field of the spec; `facts` are the attributes of `Option` from `example` on."""
    return Field(default=default, description=description, json_schema_extra=facts)


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("at least 1 is needed")
    return value


Count = Annotated[int, AfterValidator(_at_least_one)]


class Options(BaseModel):
    """Options that are given together. All values are final."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    OPTIONS: ClassVar[dict[str, Option]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """List the fields that are options."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.OPTIONS = {
            name: _read_option(name, field)
            for name, field in cls.model_fields.items()
            if field.json_schema_extra is not None
        }

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yaml_surprises(cls, value: Any, info: Any) -> Any:
        """YAML turns `x=` into None and `x=on` into True: neither is what was meant."""
        name = info.field_name
        if value is None and not (name in cls.OPTIONS and cls.OPTIONS[name].nullable):
            raise ValueError("it is empty; leave the option out or give it a value")
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise ValueError(
                f"it is the truth value {str(value).lower()}; quote it if it is a name"
            )
        return value

    def answer_options(self) -> dict[str, Any]:
        """Values of all options that can change an answer, in one spelling."""
        return {
            name: getattr(self, name)
            for name, facts in self.OPTIONS.items()
            if facts.changes_answers
        }

    def answer_defaults(self) -> dict[str, Any]:
        """The values that `answer_options` has when nothing is given."""
        return {name: self.OPTIONS[name].default for name in self.answer_options()}

    def label_parts(self) -> list[str]:
        """How a label shows the options that can change an answer and are not at their defaults."""
        defaults = self.answer_defaults()
        return [
            label.format(name=name, value=value)
            for name, value in self.answer_options().items()
            if (label := self.OPTIONS[name].label) is not None and value != defaults[name]
        ]


def _read_option(name: str, field: FieldInfo) -> Option:
    assert isinstance(field.json_schema_extra, dict)
    facts: dict[str, Any] = dict(field.json_schema_extra)
    return Option(name, field.description or "", field.default, **facts)
