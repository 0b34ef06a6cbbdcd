"""Codes of states, organizations and persons in a machine readable zone (Doc 9303-3, section 5). No I/O, no clock."""

_ISO_3166 = """
ABW AFG AGO AIA ALA ALB AND ARE ARG ARM ASM ATA ATF ATG AUS AUT AZE BDI BEL BEN BES BFA BGD BGR BHR BHS BIH BLM BLR
BLZ BMU BOL BRA BRB BRN BTN BVT BWA CAF CAN CCK CHE CHL CHN CIV CMR COD COG COK COL COM CPV CRI CUB CUW CXR CYM CYP
CZE DEU DJI DMA DNK DOM DZA ECU EGY ERI ESH ESP EST ETH FIN FJI FLK FRA FRO FSM GAB GBR GEO GGY GHA GIB GIN GLP GMB
GNB GNQ GRC GRD GRL GTM GUF GUM GUY HKG HMD HND HRV HTI HUN IDN IMN IND IOT IRL IRN IRQ ISL ISR ITA JAM JEY JOR JPN
KAZ KEN KGZ KHM KIR KNA KOR KWT LAO LBN LBR LBY LCA LIE LKA LSO LTU LUX LVA MAC MAF MAR MCO MDA MDG MDV MEX MHL MKD
MLI MLT MMR MNE MNG MNP MOZ MRT MSR MTQ MUS MWI MYS MYT NAM NCL NER NFK NGA NIC NIU NLD NOR NPL NRU NZL OMN PAK PAN
PCN PER PHL PLW PNG POL PRI PRK PRT PRY PSE PYF QAT REU ROU RUS RWA SAU SDN SEN SGP SGS SHN SJM SLB SLE SLV SMR SOM
SPM SRB SSD STP SUR SVK SVN SWE SWZ SXM SYC SYR TCA TCD TGO THA TJK TKL TKM TLS TON TTO TUN TUR TUV TWN TZA UGA UKR
UMI URY USA UZB VAT VCT VEN VGB VIR VNM VUT WLF WSM YEM ZAF ZMB ZWE
"""

EXTRA = {
    # Part A: states, and British nationalities, beside ISO 3166-1
    "D": "Germany",
    "GBD": "British Overseas Territories Citizen",
    "GBN": "British National (Overseas)",
    "GBO": "British Overseas Citizen",
    "GBP": "British Protected Person",
    "GBS": "British Subject",
    "RKS": "Kosovo",
    # Part B: reserved by ISO 3166/MA
    "EUE": "European Union",
    # Part C: United Nations
    "UNO": "United Nations",
    "UNA": "United Nations specialized agency",
    "UNK": "Resident of Kosovo, document of the United Nations mission",
    # Part D: other issuing authorities
    "XBA": "African Development Bank",
    "XIM": "African Export-Import Bank",
    "XCC": "Caribbean Community",
    "XCE": "Council of Europe",
    "XCO": "Common Market for Eastern and Southern Africa",
    "XDC": "Southern African Development Community",
    "XEC": "Economic Community of West African States",
    "XES": "Organization of Eastern Caribbean States",
    "XMP": "Parliamentary Assembly of the Mediterranean",
    "XOM": "Sovereign Military Order of Malta",
    "XPO": "Interpol",
    # Part F: withdrawn from ISO 3166, still on documents
    "ANT": "Netherlands Antilles",
    "NTZ": "Neutral Zone",
    # Part G: specimens
    "UTO": "Utopia",
    # Not in section 5, but printed on documents that are in use
    "XCT": "Northern Cyprus, persons without Turkish nationality",
}
"""What section 5 of Doc 9303-3 (8th edition with amendments 1 and 2) adds to ISO 3166-1 alpha-3."""

PERSONS = {
    "XXA": "Stateless person (1954 convention)",
    "XXB": "Refugee (1951 convention)",
    "XXC": "Refugee other than XXB",
    "XXX": "Unspecified nationality",
}
"""Part E: nationalities of people who have none. Nobody issues documents under these."""

ISSUERS = frozenset(_ISO_3166.split()) | EXTRA.keys()
NATIONALITIES = ISSUERS | PERSONS.keys()


def alpha3(code: str) -> str:
    """The same code with Germany's two spellings made one: `D` is what 9303 demands, `DEU` is printed too."""
    return "DEU" if code == "D" else code
