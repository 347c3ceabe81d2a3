"""What the web page says, in each of its languages.

Knows words alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Words:
    """The page's words. Braces are filled in: an individual, a file's name, a number.

    refusals: by status, what is said of one before the service's own words, which are English.
    """

    language: str
    title: str
    lead: str
    photographs: str
    model: str
    identify: str
    choose_first: str
    unseen: str
    perhaps_unseen: str
    seen: str
    perhaps_seen: str
    nobody: str
    yours: str
    candidate: str
    distance: str
    probability: str
    probably_new: str
    confirm: str
    reject: str
    name_of_new: str
    enrol: str
    enrolled: str
    already: str
    rejected: str
    struck: str
    name_it: str
    examples: str
    example: str
    key_wanted: str
    key: str
    enter: str
    wrong_key: str
    no_answer: str
    session_over: str
    answered_by: str
    for_programs: str
    gone: str
    refusals: Mapping[int, str]


ENGLISH = Words(
    language="English",
    title="Which whale is this?",
    lead="Drop, choose or paste photographs. You see whom each may show, beside the photograph that it resembles: "
    "compare them before you believe a name.",
    photographs="Photographs",
    model="Model",
    identify="Identify",
    choose_first="Choose a photograph first.",
    unseen="Probably a new individual",
    perhaps_unseen="Not sure: perhaps a new individual",
    seen="Probably known: {}",
    perhaps_seen="Not sure: perhaps {}",
    nobody="Nobody is left to compare with.",
    yours="Your photograph {}",
    candidate="{rank}. {individual}",
    distance="distance {}",
    probability="probability {}",
    probably_new="Probability that it is new: {}",
    confirm="Yes, this is {}",
    reject="No, not {}",
    name_of_new="A name for a new individual",
    enrol="Enrol as new",
    enrolled="{filename} is enrolled as {individual}: the next question finds it.",
    already="{filename} was enrolled as {individual} already.",
    rejected="{individual} is struck off this list; nothing was changed in the gallery.",
    struck="You say: not {}",
    name_it="Type a name for the new individual first.",
    examples="Examples of this model, to try",
    example="{} of the gallery",
    key_wanted="This service wants a key. Whoever runs it knows the key.",
    key="Key",
    enter="Enter",
    wrong_key="That is not a key of this service which may ask it. Check it, letter by letter.",
    no_answer="The service does not answer. Try again shortly.",
    session_over="You are not signed in, or no longer. Reload the page and enter the key.",
    answered_by="Answered by {}.",
    for_programs="For programs: /docs",
    gone="That photograph is not here any more. Choose it again.",
    refusals={},
)

RUSSIAN = Words(
    language="Русский",
    title="Кто этот кит?",
    lead="Перетащите, выберите или вставьте фотографии. Для каждой страница покажет, кто это может быть, и похожие "
    "снимки. Прежде чем доверять имени, сравните их сами.",
    photographs="Фотографии",
    model="Модель",
    identify="Определить",
    choose_first="Сначала выберите фотографию.",
    unseen="Вероятно, новая особь",
    perhaps_unseen="Точно не сказать: возможно, новая особь",
    seen="Вероятно, это {}",
    perhaps_seen="Точно не сказать: возможно, это {}",
    nobody="Сравнивать больше не с кем.",
    yours="Ваша фотография {}",
    candidate="{rank}. {individual}",
    distance="расстояние {}",
    probability="вероятность {}",
    probably_new="Вероятность, что особь новая: {}",
    confirm="Да, это {}",
    reject="Нет, это не {}",
    name_of_new="Имя новой особи",
    enrol="Добавить новую особь",
    enrolled="Снимок {filename} добавлен к особи {individual} и учтётся уже в следующем запросе.",
    already="Снимок {filename} уже добавлен к особи {individual}.",
    rejected="Особь {individual} убрана из списка; галерея не изменилась.",
    struck="Вы указали: это не {}",
    name_it="Сначала введите имя для новой особи.",
    examples="Примеры этой модели",
    example="{} из галереи",
    key_wanted="Для доступа нужен ключ. Спросите его у того, кто запустил сервис.",
    key="Ключ",
    enter="Войти",
    wrong_key="Такого ключа у этого сервиса нет, или с ним нельзя спрашивать. Проверьте каждую букву.",
    no_answer="Сервис не отвечает. Попробуйте чуть позже.",
    session_over="Вход не выполнен или устарел. Обновите страницу и введите ключ.",
    answered_by="Ответила модель {}.",
    for_programs="Для разработчиков: /docs",
    gone="Фотография уже удалена с сервера. Загрузите её снова.",
    refusals={
        403: "С этим ключом так нельзя. Попросите другой.",
        408: "Фотография передавалась слишком долго. Отправьте её ещё раз.",
        409: "Эта фотография уже добавлена к другой особи. Если это ошибка, сначала удалите её там.",
        413: "Слишком большая фотография, или слишком много сразу.",
        415: "Это не фотография. Подходят JPEG, PNG, WebP, TIFF и BMP.",
        422: "Файл повреждён или пуст.",
        429: "Слишком много запросов с этим ключом. Подождите немного.",
        503: "Сервис занят или не отвечает. Попробуйте чуть позже.",
    },
)

LANGUAGES = {"en": ENGLISH, "ru": RUSSIAN}


def preferred(accept: str) -> str:
    """The first language of an `Accept-Language` header that the page speaks; English where it speaks none.

    >>> preferred("ru-RU,ru;q=0.9,en;q=0.8"), preferred("de,en;q=0.5"), preferred("")
    ('ru', 'en', 'en')
    """
    asked = (part.partition(";")[0].strip().lower()[:2] for part in accept.split(","))
    return next((language for language in asked if language in LANGUAGES), "en")
