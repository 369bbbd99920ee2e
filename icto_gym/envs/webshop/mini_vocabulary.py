"""The words of the built-in catalogue: departments, sections, kinds of products, and what tells products apart.

All of it is invented for this project. Titles, option values and product codes are short, because a small
language model on a processor has to read them.
"""

from __future__ import annotations

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Section(NamedTuple):
    """A shelf of a department: ten kinds of products that share features, makes, extras and options."""

    name: str
    kinds: str
    """Nouns, one word each and used nowhere else, so that a search for one lists all products of the kind."""
    features: tuple[str, ...]
    """Shown in the title; what most near misses differ in."""
    makes: tuple[str, ...]
    """Material, base or style, shown in the title; the same within a family of near misses."""
    extras: tuple[str, ...]
    """Shown only on the Features page."""
    options: tuple[str, str]
    """Names of two entries of `OPTION_VALUES`, as ``shown name`` or ``shown name:list name``."""
    prices: tuple[int, int]
    """Dollars, lowest and highest."""


OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "color": ("black", "white", "navy", "red", "green", "gray", "beige", "pink", "brown", "blue", "purple", "teal"),
    "shade": ("coral", "nude", "plum", "pink", "red", "mocha", "peach"),
    "shoe size": ("6", "7", "8", "9", "11", "12"),
    "size": ("small", "medium", "large", "tall", "petite"),
    "object size": ("mini", "small", "medium", "large", "jumbo"),
    "waist size": ("26", "28", "30", "32", "34", "38"),
    "pattern": ("plain", "striped", "checked", "dotted", "floral"),
    "volume": ("60 ml", "120 ml", "300 ml", "750 ml"),
    "weight": ("80 g", "150 g", "400 g", "900 g"),
    "scent": ("vanilla", "citrus", "jasmine", "unscented", "musk", "apple"),
    "skin type": ("dry", "oily", "normal", "sensitive"),
    "pack": ("1", "2", "4", "6", "8"),
    "flavor": ("salted", "honey", "chili", "cinnamon", "cheese", "onion"),
    "package": ("pouch", "tin", "jar", "gift box"),
    "length": ("1 m", "3 m", "5 m", "8 m"),
    "bundle": ("alone", "with case", "with dock", "spare cable"),
    "connection": ("usb", "wifi", "ethernet"),
    "memory": ("16 gb", "32 gb", "64 gb", "256 gb"),
    "width": ("40 cm", "60 cm", "95 cm", "120 cm"),
    "bulb": ("warm", "cool", "neutral"),
}
"""Values of one list never count as equal for the purchase reward: neither after its reduction to colours nor by
token-set score (a test holds them to it)."""

_APPAREL_CARE = ("machine washable", "wrinkle free", "sweat wicking", "tumble dry safe")
_BEAUTY_CARE = ("cruelty free", "paraben free", "dermatologist tested", "vegan")
_FOOD_CARE = ("kosher certified", "non gmo", "organic", "free of preservatives")
_DEVICE_CARE = ("rated for two years", "fully recyclable", "dust proof", "tested for drops")
_HOME_CARE = ("rust proof", "dishwasher safe", "fade resistant", "assembled by hand")

DEPARTMENTS: dict[str, tuple[Section, ...]] = {
    "fashion": (
        Section(
            "Footwear", "sneakers sandals loafers boots slippers clogs moccasins heels galoshes espadrilles",
            ("waterproof", "slip resistant", "arch support", "wide toe", "quick lace", "cushioned"),
            ("suede", "canvas", "leather", "mesh"), _APPAREL_CARE, ("color", "size:shoe size"), (24, 95),
        ),
        Section(
            "Tops", "hoodie cardigan blouse polo tunic sweater turtleneck pajamas camisole henley",
            ("long sleeve", "short sleeve", "slim fit", "loose fit", "front zip", "deep pocket"),
            ("cotton", "linen", "fleece", "cashmere"), _APPAREL_CARE, ("color", "size"), (18, 70),
        ),
        Section(
            "Bottoms", "jeans dungarees tights skirt chinos joggers culottes overalls capris breeches",
            ("high waist", "low rise", "wide leg", "straight cut", "elastic band", "ankle length"),
            ("twill", "corduroy", "jersey", "hemp"), _APPAREL_CARE, ("color", "size:waist size"), (20, 75),
        ),
        Section(
            "Outerwear", "parka blazer vest raincoat poncho windbreaker kimono anorak cape overcoat",
            ("hooded", "belted", "packable", "quilted", "reflective", "double breasted"),
            ("nylon", "wool", "tweed", "softshell"), _APPAREL_CARE, ("color", "size"), (40, 130),
        ),
        Section(
            "Accessories", "scarf beanie gloves backpack wallet suspenders bandana handbag keychain earmuffs",
            ("handmade", "reversible", "embroidered", "ribbed", "fringed", "oversized"),
            ("felt", "alpaca", "silk", "cork"), _APPAREL_CARE, ("color", "pattern"), (12, 60),
        ),
    ),
    "beauty": (
        Section(
            "Hair Care", "shampoo conditioner pomade hairspray detangler serum mousse dye hairband haircream",
            ("sulfate free", "anti frizz", "volumizing", "curl defining", "heat protecting", "anti dandruff"),
            ("argan", "coconut", "keratin", "rosemary"), _BEAUTY_CARE, ("scent", "size:volume"), (9, 45),
        ),
        Section(
            "Skin Care", "moisturizer cleanser toner sunscreen exfoliator lotion primer peel facemask eyecream",
            ("oil free", "anti aging", "hydrating", "mattifying", "soothing", "brightening"),
            ("aloe", "oat", "cucumber", "ceramide"), _BEAUTY_CARE, ("skin type", "size:volume"), (10, 60),
        ),
        Section(
            "Makeup", "lipstick mascara eyeliner bronzer foundation concealer blusher highlighter eyeshadow lipbalm",
            ("long lasting", "smudge proof", "transfer proof", "high shine", "quick drying", "full coverage"),
            ("mineral", "velvet", "satin", "gel"), _BEAUTY_CARE, ("shade", "pack"), (8, 40),
        ),
        Section(
            "Tools", "tweezers comb clippers sponge curler mirror razor trimmer hairdryer pedicure",
            ("anti slip", "foldable", "double sided", "heat resistant", "cordless", "extra wide"),
            ("bamboo", "stainless", "ceramic", "silicone"),
            ("latex free", *_BEAUTY_CARE[:3]), ("color", "pack"), (6, 50),
        ),
        Section(
            "Bath", "soap scrub deodorant bathbomb mist balm loofah bodywash bathrobe talcum",
            ("polishing", "deep cleansing", "cooling", "relaxing", "aluminum free", "foaming"),
            ("seaweed", "eucalyptus", "almond", "shea"), _BEAUTY_CARE, ("scent", "pack"), (6, 35),
        ),
    ),
    "grocery": (
        Section(
            "Snacks", "granola pretzels popcorn crackers jerky chips trailmix ricecakes nachos muesli",
            ("gluten free", "low sodium", "sugar free", "high protein", "extra crunchy", "oven baked"),
            ("oat", "sesame", "quinoa", "maple"), _FOOD_CARE, ("flavor", "pack"), (5, 35),
        ),
        Section(
            "Drinks", "tea lemonade cocoa kombucha cider smoothie soda tonic milkshake lassi",
            ("caffeine free", "low calorie", "cold brewed", "unsweetened", "vitamin enriched", "sparkling"),
            ("ginger", "hibiscus", "mango", "elderberry"), _FOOD_CARE, ("pack", "size:volume"), (5, 40),
        ),
        Section(
            "Pantry", "noodles pasta couscous flour tortillas crispbread porridge dumplings ravioli bulgur",
            ("whole grain", "low carb", "quick cooking", "high fiber", "egg free", "finely milled"),
            ("chickpea", "spelt", "corn", "buckwheat"), _FOOD_CARE, ("pack", "size:weight"), (5, 30),
        ),
        Section(
            "Sauces", "salsa mayonnaise ketchup hummus pesto relish chutney gravy vinaigrette tahini",
            ("dairy free", "extra spicy", "mild", "slow cooked", "thick cut", "reduced fat"),
            ("garlic", "basil", "tomato", "paprika"), _FOOD_CARE, ("package", "size:weight"), (5, 28),
        ),
        Section(
            "Sweets", "gummies marshmallows licorice fudge truffles toffee nougat jellybeans marzipan brittle",
            ("individually wrapped", "bite sized", "soft centered", "nut free", "sour coated", "hand rolled"),
            ("hazelnut", "raspberry", "peanut", "pistachio"), _FOOD_CARE, ("package", "pack"), (6, 38),
        ),
    ),
    "electronics": (
        Section(
            "Audio", "headphones earbuds speaker soundbar microphone turntable radio walkman jukebox amplifier",
            ("noise cancelling", "wireless", "splash proof", "deep bass", "voice controlled", "hinged"),
            ("studio", "travel", "gaming", "sport"), _DEVICE_CARE, ("color", "bundle"), (30, 140),
        ),
        Section(
            "Power", "charger adapter hub splitter dongle powerbank socket inverter battery outlet",
            ("fast charging", "gold plated", "braided", "right angle", "heavy duty", "magnetic"),
            ("aluminum", "rubber", "titanium", "kevlar"), _DEVICE_CARE, ("color", "length"), (10, 60),
        ),
        Section(
            "Computing", "keyboard mouse webcam monitor router printer scanner trackpad joystick headset",
            ("ergonomic", "backlit", "silent", "compact", "programmable", "energy saving"),
            ("office", "school", "arcade", "portable"), _DEVICE_CARE, ("color", "connection"), (25, 160),
        ),
        Section(
            "Phones", "tripod stylus gimbal armband cradle screenguard smartwatch selfiestick lanyard popsocket",
            ("adjustable", "shock proof", "pocket sized", "rotating", "scratch resistant", "glow edge"),
            ("carbon", "acrylic", "neoprene", "chrome"), _DEVICE_CARE, ("color", "size:object size"), (9, 70),
        ),
        Section(
            "Cameras", "camera projector drone binoculars telescope dashcam camcorder doorbell microscope periscope",
            ("night vision", "image stabilized", "motion activated", "long range", "wide angle", "solar powered"),
            ("outdoor", "hobby", "expert", "family"), _DEVICE_CARE, ("color", "memory"), (45, 190),
        ),
    ),
    "garden": (
        Section(
            "Planting", "planter trellis hose sprinkler shears rake wheelbarrow composter birdhouse pitchfork",
            ("self watering", "leak proof", "extendable", "frost resistant", "stackable", "soft grip"),
            ("terracotta", "wicker", "zinc", "cedar"), _HOME_CARE, ("color", "size:object size"), (14, 80),
        ),
        Section(
            "Seating", "hammock bench stool parasol lounger swing armchair footrest ottoman gazebo",
            ("folding", "padded", "swivel", "weather proof", "space saving", "tilting"),
            ("teak", "rattan", "acacia", "iron"), _HOME_CARE, ("color", "width"), (45, 180),
        ),
        Section(
            "Lighting", "lantern lamp chandelier sconce nightlight floodlight candlestick fairylights torch spotlight",
            ("dimmable", "cable free", "remote controlled", "clip on", "rain proof", "timer equipped"),
            ("glass", "brass", "paper", "marble"), _HOME_CARE, ("color", "bulb"), (15, 90),
        ),
        Section(
            "Kitchen", "teapot kettle skillet colander mug cutlery wok casserole saucepan thermos",
            ("non stick", "easy pour", "insulated", "oven safe", "lidded", "whistling"),
            ("porcelain", "enamel", "copperware", "granitestone"), _HOME_CARE, ("color", "size:object size"), (12, 75),
        ),
        Section(
            "Textiles", "rug curtain pillow blanket doormat tablecloth duvet towel bedspread valance",
            ("non shedding", "blackout", "extra thick", "stain resistant", "hypoallergenic", "tasseled"),
            ("jute", "flannel", "muslin", "chenille"), _HOME_CARE, ("color", "pattern"), (12, 85),
        ),
    ),
}  # fmt: skip

HELD_OUT_DEPARTMENTS = ("electronics", "garden")
"""Departments that only the ``ood`` split asks for."""

BRANDS = _words(
    "Juno Wren Cove Ember Glen Raven Summit Tide Vale Willow Birch River Meadow Juniper Harbor Pine Atlas Nova Orion "
    "Luna Terra Delta Falcon Phoenix Haven Crest Ridge Canyon Echo Zenith"
)

TITLE_TAILS = ("New Season", "Gift Idea", "Everyday Use", "Limited Edition", "Best Seller", "Plus Extras")

DESCRIPTIONS = (
    "Designed with care and checked twice.",
    "A simple choice for every day.",
    "Ships in plain recycled wrapping.",
    "Made in small batches.",
    "Loved by our returning customers.",
    "A favourite since our first year.",
    "Reliable quality at a fair price.",
    "Comes with a short printed guide.",
)

CLOSING_BULLETS = ("easy returns", "ships within two days", "friendly support", "nice as a present")

MASS_NOUNS = frozenset(
    _words(
        "shampoo conditioner pomade hairspray serum mousse dye haircream moisturizer toner sunscreen lotion "
        "mascara soap mist balm bodywash deodorant foundation concealer primer granola popcorn jerky trailmix tea "
        "lemonade cocoa kombucha cider soda tonic pasta couscous flour crispbread porridge salsa mayonnaise "
        "ketchup hummus pesto relish chutney gravy eyecream lipbalm eyeshadow talcum muesli lassi ravioli bulgur "
        "vinaigrette tahini marzipan brittle licorice fudge toffee nougat cutlery"
    )
)
"""Nouns that take "some" rather than "a"."""

CODE_PARTS = _words(
    "LINE PORT MODE NOTE PATH PIPE POST RAIN ROOT STEM STEP TIME TYPE VIEW WARE WORK LOCK BASE CODE DATE FILE FORM "
    "HEAD HOME HOST LIST LOAD MAIN NAME PLAY READ SAGE TEXT TEST WISE CHAR BACK DOWN GRAM"
)
"""A product code is ``B0`` and two of these: ten characters that cost a byte-pair tokenizer four or five tokens."""
